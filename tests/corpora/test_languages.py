import pandas as pd
import pytest

from speakerprint.corpora.languages import groups_of, languages_of, read_languages, write_languages
from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.selection import candidates, select
from speakerprint.errors import InputError
from tests.corpora.test_selection import filter_with


def recordings_of(**columns: list) -> pd.DataFrame:
    return as_recordings(pd.DataFrame({"location": "x", **columns}), "test")


def table_of(**languages: str) -> pd.DataFrame:
    rows = [(group.replace("_", "/"), language, 0.9, 1) for group, language in languages.items()]
    return pd.DataFrame(rows, columns=["group", "language", "probability", "clips"])


VOXCELEB = recordings_of(
    recording_id=["id1/a/1", "id1/a/2", "id1/b/1", "id2/c/1"],
    speaker_id=["id1", "id1", "id1", "id2"],
)


def test_the_recordings_of_a_voxceleb_video_are_one_group_and_elsewhere_each_is_its_own():
    assert groups_of(VOXCELEB, "voxceleb").tolist() == ["id1/a", "id1/a", "id1/b", "id2/c"]
    assert groups_of(VOXCELEB, "folder").tolist() == VOXCELEB["recording_id"].tolist()


def test_a_language_is_the_locales_or_else_the_recordings_own_or_else_its_folders():
    recordings = recordings_of(
        recording_id=["v/1", "v/2", "w/1", "x", "y"], speaker_id=["s"] * 5, locale=[None, None, None, "zh-CN", "fy-NL"]
    )
    languages = languages_of(recordings, table_of(v="en", v_2="de", x="fr"))
    assert languages.fillna("-").tolist() == ["en", "de", "-", "zh", "fy"]


def test_without_any_language_all_are_unknown():
    assert languages_of(VOXCELEB, table_of()).isna().all()


def test_the_filter_keeps_the_languages_it_asks_for_counts_what_it_drops_and_drops_what_is_unknown():
    rules = filter_with(languages=["en", "fr"], min_recordings_per_speaker=2)
    selection, report = select(VOXCELEB, rules, table_of(id1_a="en", id1_b="de"))
    assert selection["recording_id"].tolist() == ["id1/a/1", "id1/a/2"]
    assert {"rule": "languages in [en, fr]", "recordings": 2, "speakers": 1} in report["rules"]


def test_recordings_per_speaker_are_sampled_from_those_of_the_right_language():
    rules = filter_with(languages=["de"], max_recordings_per_speaker=1, when_too_many="sample")
    assert select(VOXCELEB, rules, table_of(id1_b="de"))[0]["recording_id"].tolist() == ["id1/b/1"]


def test_a_labelled_corpus_needs_no_table():
    recordings = recordings_of(recording_id=["a", "b"], speaker_id=["s", "s"], locale=["zh-TW", "ja"])
    assert select(recordings, filter_with(languages=["zh"]))[0]["recording_id"].tolist() == ["a"]


def test_candidates_are_what_the_cheap_rules_leave():
    recordings = VOXCELEB.assign(gender=["male", "male", "female", "male"])
    asked = filter_with(genders=["male"], languages=["en"], min_recordings_per_speaker=2, max_recordings_per_speaker=2)
    assert candidates(recordings, asked)["recording_id"].tolist() == ["id1/a/1", "id1/a/2"]


def test_a_table_comes_back_as_it_was_written_sorted_and_to_the_same_bytes(tmp_path):
    table = table_of(b="en", a="de")
    write_languages(table, tmp_path / "one.parquet")
    write_languages(table[::-1], tmp_path / "other.parquet")
    assert read_languages(tmp_path / "one.parquet")["group"].tolist() == ["a", "b"]
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_a_users_own_table_of_labels_is_certain_of_them(tmp_path):
    pd.DataFrame({"group": ["id1/a"], "language": ["en"]}).to_parquet(tmp_path / "mine.parquet")
    assert read_languages(tmp_path / "mine.parquet").to_numpy().tolist() == [["id1/a", "en", 1.0, 0]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": ["a"], "language": ["en"]}, "but no group; data/given/README.md says"),
        ({"group": ["a", "a"], "language": ["en", "de"]}, "group 'a' occurs more than once"),
        ({"group": ["a"], "language": ["en"], "probability": [97.0]}, "group 'a' has probability 97.0, expected 0 to 1"),
    ],
)
def test_a_table_that_cannot_be_one_is_refused_with_its_name(tmp_path, columns, message):
    pd.DataFrame(columns).to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(InputError, match=r"mine\.parquet") as caught:
        read_languages(tmp_path / "mine.parquet")
    assert message in str(caught.value)


def test_what_is_no_table_is_refused_with_its_name(tmp_path):
    (tmp_path / "text.parquet").write_text("group,language\n")
    with pytest.raises(InputError, match=r"text\.parquet is not a parquet file"):
        read_languages(tmp_path / "text.parquet")
    with pytest.raises(InputError, match=r"none\.parquet does not exist"):
        read_languages(tmp_path / "none.parquet")
