"""The filter: which recordings of a corpus are used, decided from the table alone; no audio is opened."""

import csv
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speakerprint.corpora.languages import empty_table, languages_of
from speakerprint.errors import InputError
from speakerprint.params.filter import Filter


def read_exclude_list(path: str | Path, chunks: Iterable[pd.DataFrame]) -> set[str]:
    """The recording_ids of a CSV with that column, and any others: recordings to leave out.

    Raises InputError, with the line, for one that is not among the recordings of ``chunks``, and for a missing file or column.
    """
    lines: dict[str, int] = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if "recording_id" not in (rows.fieldnames or []):
                raise InputError(
                    f"{path}: columns {', '.join(rows.fieldnames or []) or 'none'}; expected recording_id and any others"
                )
            for row in rows:
                if row["recording_id"] is None:
                    raise InputError(f"{path}, line {rows.line_num}: has no recording_id; mend the line or remove it")
                lines.setdefault(row["recording_id"].strip(), rows.line_num)
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist, but the corpus's filter.exclude names it; put it there or empty that key"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: {error}; mend the line") from None
    unknown = set(lines)
    for chunk in chunks:
        unknown.difference_update(chunk["recording_id"])
    if unknown:
        name = min(unknown, key=lines.__getitem__)
        raise InputError(
            f"{path}, line {lines[name]}: the corpus has no recording {name!r} (its recordings are called as "
            f"{next(iter(chunks))['recording_id'].iloc[0]!r}); mend the line or remove it"
        )
    return set(lines)


def select(
    recordings: pd.DataFrame, filter: Filter, languages: pd.DataFrame | None = None, excluded: Collection[str] = ()
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of a table that the filter leaves, in their order, and a report; as `choose`."""
    kept, report = choose([recordings], filter, languages, excluded)
    return recordings[kept].reset_index(drop=True), report


def choose(
    chunks: Iterable[pd.DataFrame], filter: Filter, languages: pd.DataFrame | None = None, excluded: Collection[str] = ()
) -> tuple[np.ndarray, dict[str, Any]]:
    """Apply the filter's rules one after the other to a table that comes in chunks; return which rows are left, and a report.

    ``chunks`` are gone through twice. Of a row, five bytes stay in memory, or 13 if recordings are sampled; of a speaker, the id.

    ``languages`` is the table (see `languages`) that says the language of recordings without a locale; without it, it is unknown.
    ``excluded`` are the recording_ids that the file ``filter.exclude`` lists (`read_exclude_list`): they go first.

    A rule on votes or duration keeps recordings whose votes or duration are unknown; a list of genders, locales or languages does
    not keep unknown ones. The report says, in plain JSON types, how many recordings and speakers each rule left
    (``rules``) and what the selection is made of (``selected``; ``hours`` is None unless all durations are known, a range of
    votes unless some are).

    Raises InputError, with the table of rules, if no recording is left.
    """
    samples = filter.max_recordings_per_speaker is not None and filter.when_too_many == "sample"
    numbers: dict[str, int] = {}  # of speakers
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in chunks:
        rules = _rules(chunk, filter, empty_table() if languages is None else languages, excluded)
        codes, found = pd.factorize(chunk["speaker_id"])
        speakers = np.array([numbers.setdefault(speaker, len(numbers)) for speaker in found], np.int32)[codes]
        passed = np.logical_and.accumulate(list(rules.values())).sum(axis=0, dtype=np.int8)
        names = chunk["recording_id"][: len(chunk) if samples else 0]
        parts.append((speakers, passed, np.array([_hash(f"{filter.seed}/{name}") for name in names], np.uint64)))
    speakers, passed, ranks = map(np.concatenate, zip(*parts, strict=True))

    counts: list[dict[str, Any]] = [{"rule": "all", **_count(speakers)}]
    for n_passed, rule in enumerate(rules, start=1):
        counts.append({"rule": rule, **_count(speakers[passed >= n_passed])})
    if filter.exclude is not None:
        counts[1]["rule"] += f" ({counts[0]['recordings'] - counts[1]['recordings']} recordings)"
    kept = passed == len(rules)
    per_speaker = np.bincount(speakers[kept], minlength=len(numbers))
    kept &= (per_speaker >= filter.min_recordings_per_speaker)[speakers]
    counts.append({"rule": f"min_recordings_per_speaker >= {filter.min_recordings_per_speaker}", **_count(speakers[kept])})
    if (most := filter.max_recordings_per_speaker) is not None:
        rows = np.flatnonzero(kept & (per_speaker > most)[speakers])
        kept[rows] = False
        if samples:
            rows = rows[np.lexsort((ranks[rows], speakers[rows]))]
            number = np.arange(len(rows)) - np.searchsorted(speakers[rows], speakers[rows])  # within the speaker
            kept[rows[number < most]] = True
        counts.append({"rule": f"max_recordings_per_speaker <= {most} ({filter.when_too_many})", **_count(speakers[kept])})
    if not kept.any():
        raise InputError(f"the filter leaves no recording; relax the rule after which none is left:\n{_as_text(counts)}")
    return kept, {"rules": counts, "selected": _describe(chunks, kept, speakers)}


def candidates(recordings: pd.DataFrame, filter: Filter) -> pd.DataFrame:
    """The rows that their language alone can still keep out of the selection.

    They pass the other rules on single recordings and are of speakers with enough of them.
    """
    left = recordings[np.logical_and.reduce(list(_single(recordings, filter).values()))]
    return left[left["speaker_id"].map(left["speaker_id"].value_counts()) >= filter.min_recordings_per_speaker]


def speaker_position(speaker_id: str) -> float:
    """Where a speaker stands in [0, 1): the first 53 bits of SHA-256 of the id in UTF-8, over 2^53.

    Evenly spread, and the same on every machine and in every corpus: filters with disjoint ``speaker_range``
    never share a speaker.
    """
    return (_hash(speaker_id) >> 11) / 2**53


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _single(rows: pd.DataFrame, filter: Filter) -> dict[str, pd.Series]:
    """Which rows pass each of the rules on single recordings that are set, but for those on languages and exclusions."""
    up, down, duration = rows["up_votes"], rows["down_votes"], rows["duration_s"]
    rules = {f"min_up_votes >= {filter.min_up_votes}": up.isna() | (up >= filter.min_up_votes)}
    if filter.max_down_votes is not None:
        rules[f"max_down_votes <= {filter.max_down_votes}"] = down.isna() | (down <= filter.max_down_votes)
    rules[f"min_duration_s >= {filter.min_duration_s}"] = duration.isna() | (duration >= filter.min_duration_s)
    if filter.max_duration_s is not None:
        rules[f"max_duration_s <= {filter.max_duration_s}"] = duration.isna() | (duration <= filter.max_duration_s)
    if filter.genders is not None:
        rules[f"genders in [{', '.join(filter.genders)}]"] = rows["gender"].isin(filter.genders)
    if filter.locales is not None:
        rules[f"locales in [{', '.join(filter.locales)}]"] = rows["locale"].isin(filter.locales)
    start, stop = filter.speaker_range
    inside = [speaker for speaker in rows["speaker_id"].unique() if start <= speaker_position(speaker) < stop]
    rules[f"speaker_range in [{start}, {stop})"] = rows["speaker_id"].isin(inside)
    return rules


def _rules(
    rows: pd.DataFrame, filter: Filter, languages: pd.DataFrame, excluded: Collection[str]
) -> dict[str, pd.Series | np.ndarray]:
    """Which rows pass each of the rules on single recordings that are set, in the order in which they are applied."""
    rules = _single(rows, filter)
    if filter.exclude is not None:
        rules = {f"not in {filter.exclude}": ~rows["recording_id"].isin(excluded), **rules}
    if filter.languages is not None:
        rules[f"languages in [{', '.join(filter.languages)}]"] = languages_of(rows, languages).isin(filter.languages)
    return rules


def _count(speakers: np.ndarray) -> dict[str, int]:
    """Of rows of those speakers."""
    return {"recordings": len(speakers), "speakers": int(np.count_nonzero(np.bincount(speakers)))}


def _describe(chunks: Iterable[pd.DataFrame], kept: np.ndarray, speakers: np.ndarray) -> dict[str, Any]:
    n_rows: Counter[tuple[str, str]] = Counter()  # of a column and a value in it
    who: dict[tuple[str, str], np.ndarray] = {}  # and whether each speaker has some of these
    votes: dict[str, list[float]] = {"up_votes": [], "down_votes": []}
    seconds, start = 0.0, 0
    for chunk in chunks:
        here = slice(start, start := start + len(chunk))
        rows, of_row = chunk[kept[here]], speakers[here][kept[here]]
        seconds += rows["duration_s"].astype("float64").sum(skipna=False)
        for name, known in votes.items():
            known += rows[name].agg(["min", "max"]).dropna().tolist()
        for name in ("gender", "age", "locale"):
            for value, at in rows.groupby(rows[name].fillna("unknown")).indices.items():
                n_rows[name, str(value)] += len(at)
                who.setdefault((name, str(value)), np.zeros(speakers.max() + 1, bool))[of_row[at]] = True
    per_speaker = np.bincount(speakers[kept])
    per_speaker = per_speaker[per_speaker > 0]

    def count_by(name: str) -> dict[str, dict[str, int]]:
        keys = [key for key in sorted(who) if key[0] == name]
        return {key[1]: {"recordings": n_rows[key], "speakers": int(who[key].sum())} for key in keys}

    return {
        **_count(speakers[kept]),
        "hours": None if np.isnan(seconds) else round(float(seconds) / 3600, 3),
        "by_gender": count_by("gender"),
        "by_age": count_by("age"),
        "by_locale": count_by("locale"),
        **{name: {"min": int(min(known)), "max": int(max(known))} if known else None for name, known in votes.items()},
        "recordings_per_speaker": {
            "min": int(per_speaker.min()),
            "median": float(np.median(per_speaker)),
            "max": int(per_speaker.max()),
        },
    }


def _as_text(rules: list[dict[str, Any]]) -> str:
    width = max(len(rule["rule"]) for rule in rules)
    lines = [f"  {'rule':<{width}}  {'recordings':>10}  {'speakers':>8}"]
    lines += [f"  {rule['rule']:<{width}}  {rule['recordings']:>10,}  {rule['speakers']:>8,}" for rule in rules]
    return "\n".join(lines)
