import hashlib
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.selection import candidates, choose, read_exclude_list, select, speaker_position
from speakerprint.errors import InputError
from speakerprint.params.filter import Filter
from tests.helpers import KEEP_EVERYTHING


def filter_with(**rules: Any) -> Filter:
    """A filter that keeps everything, but for the given rules."""
    return Filter(**{**KEEP_EVERYTHING, **rules})


def table(**columns: list) -> pd.DataFrame:
    n = max(map(len, columns.values()), default=1)
    usual = {"recording_id": [f"r{i:03}" for i in range(n)], "speaker_id": ["anna"] * n, "location": ["x"] * n}
    return as_recordings(pd.DataFrame({**usual, **columns}), "test")


def kept(recordings: pd.DataFrame, **rules: Any) -> list[str]:
    return select(recordings, filter_with(**rules))[0]["recording_id"].tolist()


@pytest.mark.parametrize(
    ("column", "values", "rule", "expected"),
    [
        ("up_votes", [1, 2, 3, None], {"min_up_votes": 2}, [1, 2, 3]),
        ("down_votes", [0, 1, 2, None], {"max_down_votes": 1}, [0, 1, 3]),
        ("duration_s", [0.5, 1.0, 2.0, None], {"min_duration_s": 1.0}, [1, 2, 3]),
        ("duration_s", [0.5, 1.0, 2.0, None], {"max_duration_s": 1.0}, [0, 1, 3]),
        ("gender", ["male", "female", "other", None], {"genders": ["female", "other"]}, [1, 2]),
        ("locale", ["en", "fr", "de", None], {"locales": ["fr", "it"]}, [1]),
    ],
)
def test_each_rule_alone(column: str, values: list, rule: dict, expected: list[int]) -> None:
    """Limits are inclusive; unknown votes and durations stay, unknown genders and locales go."""
    assert kept(table(**{column: values}), **rule) == [f"r{i:03}" for i in expected]


def test_speakers_with_too_few_or_too_many_recordings_are_dropped() -> None:
    recordings = table(speaker_id=["one", "two", "two", "three", "three", "three"])
    assert kept(recordings, min_recordings_per_speaker=2) == ["r001", "r002", "r003", "r004", "r005"]
    assert kept(recordings, max_recordings_per_speaker=2) == ["r000", "r001", "r002"]


def test_candidates_pass_the_other_rules_and_have_a_speaker_with_enough_of_them() -> None:
    recordings = table(speaker_id=["one", "two", "two", "three", "three"], up_votes=[2, 2, 2, 2, 0])
    left = candidates(recordings, filter_with(min_recordings_per_speaker=2, min_up_votes=1, languages=["fr"]))
    assert left["recording_id"].tolist() == ["r001", "r002"]


def test_what_a_list_excludes_goes_first_and_is_counted() -> None:
    recordings = table(speaker_id=["one", "one", "two", "two"])
    rules = filter_with(exclude="data/given/exclude/mine.csv", min_recordings_per_speaker=2)
    selection, report = select(recordings, rules, excluded={"r001"})
    assert selection["recording_id"].tolist() == ["r002", "r003"]
    assert report["rules"][:2] == [
        {"rule": "all", "recordings": 4, "speakers": 2},
        {"rule": "not in data/given/exclude/mine.csv (1 recordings)", "recordings": 3, "speakers": 2},
    ]


def test_an_exclude_list_has_a_column_of_recordings_and_any_others(tmp_path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("\ufeffreason,recording_id\nodd, r001\n\nclipped,r000\nodd,r001\n", encoding="utf-8")
    recordings = table(speaker_id=["anna"] * 2)
    assert read_exclude_list(path, [recordings[:1], recordings[1:]]) == {"r000", "r001"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"recording_id,reason\nr000,odd\nr9,odd\n", r"mine.csv, line 3: the corpus has no recording 'r9' \(.* as 'r000'\)"),
        (b'recording_id\n""\n', r"mine.csv, line 2: the corpus has no recording ''"),
        (b"recording\nr000\n", "mine.csv: columns recording; expected recording_id"),
        (b"", "mine.csv: columns none; expected recording_id"),
        (b"recording_id\n\xff\n", "mine.csv is not UTF-8"),
        (None, "mine.csv does not exist, but the corpus's filter.exclude names it"),
    ],
)
def test_an_exclude_list_that_cannot_be_meant_is_refused_with_its_line(tmp_path, content, message) -> None:
    if content is not None:
        (tmp_path / "mine.csv").write_bytes(content)
    recordings = table(speaker_id=["anna"] * 2)
    with pytest.raises(InputError, match=message):
        read_exclude_list(tmp_path / "mine.csv", [recordings[:1], recordings[1:]])


def test_a_list_and_languages_are_applied_chunk_by_chunk() -> None:
    recordings = table(speaker_id=["one", "two"] * 4, locale=["en", None] * 4, duration_s=[1.0] * 8)
    languages = pd.DataFrame({"group": [f"r{i:03}" for i in range(8)], "language": ["en", "fr"] * 4})
    languages.loc[3, "language"] = "en"
    rules = filter_with(exclude="data/given/exclude/mine.csv", languages=["en"])
    whole = choose([recordings], rules, languages, {"r000", "r007"})
    assert recordings["recording_id"][whole[0]].tolist() == ["r002", "r003", "r004", "r006"]
    kept, report = choose([recordings[:3], recordings[3:4], recordings[4:]], rules, languages, {"r000", "r007"})
    assert kept.tolist() == whole[0].tolist() and report == whole[1]
    assert report["rules"][1] == {"rule": "not in data/given/exclude/mine.csv (2 recordings)", "recordings": 6, "speakers": 2}


def test_recordings_per_speaker_are_counted_after_the_other_rules() -> None:
    recordings = table(speaker_id=["anna", "anna", "ben", "ben"], up_votes=[2, 2, 2, 0])
    assert kept(recordings, min_up_votes=1, min_recordings_per_speaker=2) == ["r000", "r001"]


def test_a_sample_does_not_depend_on_the_order_or_number_of_other_rows() -> None:
    recordings = table(speaker_id=["anna"] * 30 + ["ben"] * 3)
    rules = {"max_recordings_per_speaker": 5, "when_too_many": "sample"}
    sample = kept(recordings, **rules)
    assert len(sample) == 5 + 3
    assert sorted(kept(recordings.sample(frac=1, random_state=1), **rules)) == sample
    assert kept(recordings[:30], **rules) == sample[:5]
    assert kept(recordings, **rules, seed=2) != sample


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    recordings = table(speaker_id=["anna"] * 30)
    samples = [set(kept(recordings, max_recordings_per_speaker=n, when_too_many="sample")) for n in (3, 10)]
    assert samples[0] < samples[1]


@pytest.mark.slow
def test_each_recording_is_sampled_equally_often() -> None:
    recordings = table(speaker_id=["anna"] * 10)
    counts = dict.fromkeys(recordings["recording_id"], 0)
    for seed in range(100):
        for recording in kept(recordings, max_recordings_per_speaker=3, when_too_many="sample", seed=seed):
            counts[recording] += 1
    assert sum(counts.values()) == 300
    assert all(11 <= count <= 49 for count in counts.values())  # 30 ± 4 standard deviations of 4.6


def test_speaker_position_is_a_number_fixed_for_ever() -> None:
    assert speaker_position("anna") == 0.33336802326865755  # `printf anna | sha256sum` begins with 55579b557896d0
    digest = hashlib.sha256("Zoë".encode()).hexdigest()
    assert speaker_position("Zoë") == pytest.approx(int(digest, 16) / 16**64, abs=1e-15)


def test_speaker_positions_are_spread_evenly_below_one() -> None:
    positions = np.array([speaker_position(f"speaker {i}") for i in range(10_000)])
    assert positions.min() >= 0 and positions.max() < 1
    counts, _ = np.histogram(positions, bins=10, range=(0, 1))
    assert all(880 <= count <= 1120 for count in counts)  # 1000 ± 4 standard deviations of 30


def test_disjoint_speaker_ranges_share_no_speaker_and_lose_none() -> None:
    recordings = table(speaker_id=[f"speaker {i // 2}" for i in range(200)])
    low = set(select(recordings, filter_with(speaker_range=[0.0, 0.3]))[0]["speaker_id"])
    high = set(select(recordings, filter_with(speaker_range=[0.3, 1.0]))[0]["speaker_id"])
    assert low and high and not low & high
    assert low | high == set(recordings["speaker_id"])


def test_a_speaker_range_holds_its_start_and_not_its_stop() -> None:
    position = speaker_position("anna")
    assert kept(table(), speaker_range=[position, 1.0]) == ["r000"]
    with pytest.raises(InputError):
        kept(table(), speaker_range=[0.0, position])


def test_the_report_counts_what_every_rule_left() -> None:
    recordings = table(
        speaker_id=["anna", "anna", "anna", "ben", "ben", "carl"],
        gender=["female", "female", "female", "male", "male", None],
        locale=["en", "en", "fr", "en", "en", "en"],
        age=["teens", "teens", "fifties", None, None, "teens"],
        up_votes=[2, 2, 5, 2, None, 0],
        duration_s=[3600.0, 1800.0, 1800.0, 900.0, 900.0, 5.0],
    )
    selection, report = select(recordings, filter_with(min_up_votes=1, max_recordings_per_speaker=9))
    assert selection["recording_id"].tolist() == ["r000", "r001", "r002", "r003", "r004"]
    assert report == {
        "rules": [
            {"rule": "all", "recordings": 6, "speakers": 3},
            {"rule": "min_up_votes >= 1", "recordings": 5, "speakers": 2},
            {"rule": "min_duration_s >= 0.0", "recordings": 5, "speakers": 2},
            {"rule": "speaker_range in [0.0, 1.0)", "recordings": 5, "speakers": 2},
            {"rule": "min_recordings_per_speaker >= 1", "recordings": 5, "speakers": 2},
            {"rule": "max_recordings_per_speaker <= 9 (drop)", "recordings": 5, "speakers": 2},
        ],
        "selected": {
            "recordings": 5,
            "speakers": 2,
            "hours": 2.5,
            "by_gender": {"female": {"recordings": 3, "speakers": 1}, "male": {"recordings": 2, "speakers": 1}},
            "by_age": {
                "fifties": {"recordings": 1, "speakers": 1},
                "teens": {"recordings": 2, "speakers": 1},
                "unknown": {"recordings": 2, "speakers": 1},
            },
            "by_locale": {"en": {"recordings": 4, "speakers": 2}, "fr": {"recordings": 1, "speakers": 1}},
            "up_votes": {"min": 2, "max": 5},
            "down_votes": None,
            "recordings_per_speaker": {"min": 2, "median": 2.5, "max": 3},
        },
    }
    assert json.loads(json.dumps(report)) == report


def test_hours_are_null_when_a_duration_is_unknown_and_unknowns_are_counted_as_such() -> None:
    selected = select(table(duration_s=[1.0, None]), filter_with())[1]["selected"]
    assert selected["hours"] is None
    assert selected["by_gender"] == {"unknown": {"recordings": 2, "speakers": 1}}


def test_an_empty_selection_is_an_error_that_prints_the_aligned_table() -> None:
    with pytest.raises(InputError) as error:
        select(table(up_votes=[1, 1, 2]), filter_with(min_up_votes=2, min_recordings_per_speaker=2))
    assert str(error.value).splitlines()[1:] == [
        "  rule                             recordings  speakers",
        "  all                                       3         1",
        "  min_up_votes >= 2                         1         1",
        "  min_duration_s >= 0.0                     1         1",
        "  speaker_range in [0.0, 1.0)               1         1",
        "  min_recordings_per_speaker >= 2           0         0",
    ]


def select_by_hand(rows: list[dict], rules: Filter) -> set[str]:
    """A second implementation, row by row."""
    rows = [
        row
        for row in rows
        if (row["up_votes"] is None or row["up_votes"] >= rules.min_up_votes)
        and (row["down_votes"] is None or rules.max_down_votes is None or row["down_votes"] <= rules.max_down_votes)
        and (rules.genders is None or row["gender"] in rules.genders)
    ]
    result = set()
    for speaker in {row["speaker_id"] for row in rows}:
        ids = [row["recording_id"] for row in rows if row["speaker_id"] == speaker]
        if len(ids) < rules.min_recordings_per_speaker:
            continue
        if rules.max_recordings_per_speaker is not None and len(ids) > rules.max_recordings_per_speaker:
            if rules.when_too_many == "drop":
                continue
            ids.sort(key=lambda name: hashlib.sha256(f"{rules.seed}/{name}".encode()).hexdigest())
            ids = ids[: rules.max_recordings_per_speaker]
        result |= set(ids)
    return result


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "speaker_id": st.sampled_from(["anna", "ben", "carl"]),
                "up_votes": st.none() | st.integers(0, 3),
                "down_votes": st.none() | st.integers(0, 2),
                "gender": st.sampled_from([None, "male", "female"]),
            }
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(0, 2),
    st.none() | st.integers(0, 1),
    st.sampled_from([None, ["male"]]),
    st.integers(1, 3),
    st.none() | st.integers(0, 3),
    st.sampled_from(["drop", "sample"]),
    st.integers(1, 9),
)
def test_select_agrees_with_a_row_by_row_implementation_whole_and_in_chunks(
    rows, up, down, genders, least, more, when, n_rows
) -> None:
    rows = [{**row, "recording_id": f"r{i}", "location": "x"} for i, row in enumerate(rows)]
    rules = filter_with(
        min_up_votes=up,
        max_down_votes=down,
        genders=genders,
        min_recordings_per_speaker=least,
        max_recordings_per_speaker=None if more is None else least + more,
        when_too_many=when,
    )
    expected = select_by_hand(rows, rules)
    recordings = as_recordings(pd.DataFrame(rows), "test")
    if expected:
        selection, report = select(recordings, rules)
        assert set(selection["recording_id"]) == expected
        kept, same = choose([recordings.iloc[start : start + n_rows] for start in range(0, len(rows), n_rows)], rules)
        assert set(recordings["recording_id"][kept]) == expected and same == report
    else:
        with pytest.raises(InputError):
            select(recordings, rules)
