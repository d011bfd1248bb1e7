"""The filter: which recordings of a corpus are used, decided from the table alone; no audio is opened."""

import csv
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from speakerprint.errors import InputError
from speakerprint.languages import empty_table, languages_of
from speakerprint.params import Filter


def read_exclude_list(path: str | Path, recordings: pd.DataFrame) -> set[str]:
    """The recording_ids of a CSV with that column, and any others: recordings to leave out.

    Raises InputError, with the line, for one that is not among ``recordings``, and for a missing file or column.
    """
    known, excluded = set(recordings["recording_id"]), set()
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if "recording_id" not in (rows.fieldnames or []):
                raise InputError(
                    f"{path}: columns {', '.join(rows.fieldnames or []) or 'none'}; expected recording_id and any others"
                )
            for row in rows:
                name = row["recording_id"].strip()
                if name not in known:
                    raise InputError(
                        f"{path}, line {rows.line_num}: the corpus has no recording {name!r} (its recordings are called as "
                        f"{recordings['recording_id'].iloc[0]!r}); mend the line or remove it"
                    )
                excluded.add(name)
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist, but the corpus's filter.exclude names it; put it there or empty that key"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None
    return excluded


def select(
    recordings: pd.DataFrame, filter: Filter, languages: pd.DataFrame | None = None, excluded: Collection[str] = ()
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Apply the filter's rules one after the other; return the rows that are left, in their order, and a report.

    ``languages`` is the table (see `languages`) that says the language of recordings without a locale; without it, it is unknown.
    ``excluded`` are the recording_ids that the file ``filter.exclude`` lists (`read_exclude_list`): they go first.

    A rule on votes or duration keeps recordings whose votes or duration are unknown; a list of genders, locales or languages does
    not keep unknown ones. The report says, in plain JSON types, how many recordings and speakers each rule left
    (``rules``) and what the selection is made of (``selected``; ``hours`` is None unless all durations are known, a range of
    votes unless some are).

    Raises InputError, with the table of rules, if no recording is left.
    """
    rules = [{"rule": "all", **_count(recordings)}]
    left = recordings
    if filter.exclude is not None:
        listed = recordings["recording_id"].isin(excluded)
        recordings = left = recordings[~listed]
        rules.append({"rule": f"not in {filter.exclude} ({int(listed.sum())} recordings)", **_count(left)})
    for rule, left in _apply(recordings, filter, empty_table() if languages is None else languages):
        rules.append({"rule": rule, **_count(left)})
    if left.empty:
        raise InputError(f"the filter leaves no recording; relax the rule after which none is left:\n{_as_text(rules)}")
    return left.reset_index(drop=True), {"rules": rules, "selected": _describe(left)}


def candidates(recordings: pd.DataFrame, filter: Filter) -> pd.DataFrame:
    """The rows that their language alone can still keep out of the selection, if the filter asks for languages; else none.

    They pass the rules on single recordings and are of speakers with enough of them.
    """
    if filter.languages is None:
        return recordings[:0]
    *_, (_, left) = _single(recordings, filter)
    return left[_recordings_of_speaker(left) >= filter.min_recordings_per_speaker]


def speaker_position(speaker_id: str) -> float:
    """Where a speaker stands in [0, 1): the first 53 bits of SHA-256 of the id in UTF-8, over 2^53.

    Evenly spread, and the same on every machine and in every corpus: filters with disjoint ``speaker_range``
    never share a speaker.
    """
    return (_hash(speaker_id) >> 11) / 2**53


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _single(rows: pd.DataFrame, filter: Filter) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (rule, the rows it leaves) for every rule on single recordings that is set, but for that on languages."""
    rows = rows[rows["up_votes"].isna() | (rows["up_votes"] >= filter.min_up_votes)]
    yield f"min_up_votes >= {filter.min_up_votes}", rows
    if filter.max_down_votes is not None:
        rows = rows[rows["down_votes"].isna() | (rows["down_votes"] <= filter.max_down_votes)]
        yield f"max_down_votes <= {filter.max_down_votes}", rows
    rows = rows[rows["duration_s"].isna() | (rows["duration_s"] >= filter.min_duration_s)]
    yield f"min_duration_s >= {filter.min_duration_s}", rows
    if filter.max_duration_s is not None:
        rows = rows[rows["duration_s"].isna() | (rows["duration_s"] <= filter.max_duration_s)]
        yield f"max_duration_s <= {filter.max_duration_s}", rows
    if filter.genders is not None:
        rows = rows[rows["gender"].isin(filter.genders)]
        yield f"genders in [{', '.join(filter.genders)}]", rows
    if filter.locales is not None:
        rows = rows[rows["locale"].isin(filter.locales)]
        yield f"locales in [{', '.join(filter.locales)}]", rows
    start, stop = filter.speaker_range
    position = {speaker: speaker_position(speaker) for speaker in rows["speaker_id"].unique()}
    rows = rows[rows["speaker_id"].map(position).astype(float).between(start, stop, inclusive="left")]
    yield f"speaker_range in [{start}, {stop})", rows


def _apply(rows: pd.DataFrame, filter: Filter, languages: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (rule, the rows it leaves) for every rule that is set."""
    left = rows
    for rule, left in _single(rows, filter):
        yield rule, left
    rows = left
    if filter.languages is not None:
        rows = rows[languages_of(rows, languages).isin(filter.languages)]
        yield f"languages in [{', '.join(filter.languages)}]", rows
    rows = rows[_recordings_of_speaker(rows) >= filter.min_recordings_per_speaker]
    yield f"min_recordings_per_speaker >= {filter.min_recordings_per_speaker}", rows
    if filter.max_recordings_per_speaker is not None:
        few = _recordings_of_speaker(rows) <= filter.max_recordings_per_speaker
        if filter.when_too_many == "sample":
            many = rows[~few]
            rank = many["recording_id"].map(lambda recording: _hash(f"{filter.seed}/{recording}")).astype("uint64")
            order = many.loc[rank.sort_values(kind="stable").index]
            few[order.index[order.groupby("speaker_id").cumcount() < filter.max_recordings_per_speaker]] = True
        rows = rows[few]
        yield f"max_recordings_per_speaker <= {filter.max_recordings_per_speaker} ({filter.when_too_many})", rows


def _recordings_of_speaker(rows: pd.DataFrame) -> pd.Series:
    return rows["speaker_id"].map(rows["speaker_id"].value_counts())


def _count(rows: pd.DataFrame) -> dict[str, int]:
    return {"recordings": len(rows), "speakers": rows["speaker_id"].nunique()}


def _count_by(rows: pd.DataFrame, column: str) -> dict[str, dict[str, int]]:
    return {str(value): _count(group) for value, group in rows.groupby(rows[column].fillna("unknown"))}


def _range(votes: pd.Series) -> dict[str, int] | None:
    """Least and most where they are known; None if they are known nowhere."""
    return {"min": int(votes.min()), "max": int(votes.max())} if votes.notna().any() else None


def _describe(rows: pd.DataFrame) -> dict[str, Any]:
    per_speaker = rows["speaker_id"].value_counts()
    known = bool(rows["duration_s"].notna().all())
    return {
        **_count(rows),
        "hours": round(float(rows["duration_s"].astype("float64").sum()) / 3600, 3) if known else None,
        "by_gender": _count_by(rows, "gender"),
        "by_age": _count_by(rows, "age"),
        "by_locale": _count_by(rows, "locale"),
        "up_votes": _range(rows["up_votes"]),
        "down_votes": _range(rows["down_votes"]),
        "recordings_per_speaker": {
            "min": int(per_speaker.min()),
            "median": float(per_speaker.median()),
            "max": int(per_speaker.max()),
        },
    }


def _as_text(rules: list[dict[str, Any]]) -> str:
    width = max(len(rule["rule"]) for rule in rules)
    lines = [f"  {'rule':<{width}}  {'recordings':>10}  {'speakers':>8}"]
    lines += [f"  {rule['rule']:<{width}}  {rule['recordings']:>10,}  {rule['speakers']:>8,}" for rule in rules]
    return "\n".join(lines)
