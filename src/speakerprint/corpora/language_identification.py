"""Which language is spoken: Whisper's own answer, the first token that its decoder would say, here of languages only.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022 (arXiv 2212.04356), section 2.3: the first
token that the decoder predicts is that of the language.
"""

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import FRAMES_PER_SECOND, MAX_FRAMES, SAMPLE_RATE_HZ
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.corpora.feature_store import DTYPE
from speakerprint.corpora.languages import SCHEMA
from speakerprint.corpora.shards import in_parallel
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.files import whole_file
from speakerprint.params.language import Language
from speakerprint.params.language_names import LANGUAGE_NAMES

LANGUAGES = list(LANGUAGE_NAMES)[:99]
SURE_PROBABILITY = 0.9  # no further clip of a group is heard once a language is that probable
BATCH = 16  # clips heard at once
CHECKPOINT_CLIPS = 512  # heard between two files that a killed run goes on from
HEARD = pa.schema(
    [
        ("recording_id", pa.string()),
        ("log_probabilities", pa.list_(pa.float32(), len(LANGUAGES))),  # null if the clip is bad
        ("problem", pa.string()),  # null unless it is
    ]
)
Hear = Callable[[list[np.ndarray]], np.ndarray]  # features, each (frames, mels) -> log-probabilities (clips, languages)


def identify_languages(
    recordings: pd.DataFrame, settings: Language, load: Callable[[], Hear], folder: str | Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The language of each group of recordings, as a table (see `languages`), and a report.

    recordings: the schema of `recordings`, with ``group`` (see languages.groups_of). Of a group the first ``settings.clips`` are
    heard, no more once the mean of their probabilities for a language reaches SURE_PROBABILITY.
    load: gives what hears; called if there is anything to hear.
    folder: where what was heard is remembered, so that nothing is heard twice, neither after a kill nor with other settings.

    A clip that is absent, undecodable or silent is passed over and listed in the report.
    """
    recordings = recordings.sort_values(["group", "recording_id"], ignore_index=True)
    number, groups = pd.factorize(recordings["group"])
    turns = recordings.groupby("group").cumcount()
    total = np.zeros((len(groups), len(LANGUAGES)))
    n_heard = np.zeros(len(groups), np.int32)
    bad: list[dict[str, str]] = []
    memory = _Memory(Path(folder), load)
    for turn in range(settings.clips):
        unsure = total.max(axis=1) < SURE_PROBABILITY * np.maximum(n_heard, 1)
        asked = (turns == turn) & unsure[number]
        clips = recordings[asked]
        heard = memory.hear(clips, f"languages, clip {turn + 1} of {settings.clips}")
        good = heard["problem"].isna().to_numpy()
        group = number[asked][good]
        total[group] += np.exp(np.reshape(heard["log_probabilities"][good].tolist(), (-1, len(LANGUAGES))))
        n_heard[group] += 1
        for clip, reason in zip(clips[~good].itertuples(), heard["problem"][~good], strict=True):
            bad.append({"recording_id": clip.recording_id, "location": clip.location, "reason": reason})
    probabilities = total / np.maximum(n_heard, 1)[:, None]
    best = probabilities.argmax(axis=1)
    codes = [LANGUAGES[i] if n else None for i, n in zip(best, n_heard, strict=True)]
    table = pd.DataFrame({"group": groups, "language": codes, "probability": probabilities.max(axis=1), "clips": n_heard})
    table["probability"] = table["probability"].where(n_heard > 0)
    by_language = table["language"].fillna("unknown").value_counts().sort_index()
    return table[SCHEMA.names], {
        "groups": len(table),
        "clips": int(n_heard.sum()),
        "by_language": {str(code): int(n) for code, n in by_language.items()},
        "bad": sorted(bad, key=lambda clip: clip["recording_id"]),
    }


class _Memory:
    """What was heard: a row of HEARD for each clip, in numbered files in ``folder``, each whole or not there."""

    def __init__(self, folder: Path, load: Callable[[], Hear]):
        self._folder = folder
        self._model = functools.cache(load)
        folder.mkdir(parents=True, exist_ok=True)
        parts = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
        heard = pa.concat_tables([HEARD.empty_table(), *parts]).to_pandas().set_index("recording_id")
        self._heard = heard[heard["problem"].isna()]  # a bad clip may have been mended: it is tried again

    def hear(self, recordings: pd.DataFrame, title: str) -> pd.DataFrame:
        """The rows of these recordings, in their order; those that were not heard yet are heard now."""
        new = recordings[~recordings["recording_id"].isin(self._heard.index)]
        parts = [self._heard]
        with tqdm(total=len(recordings), initial=len(recordings) - len(new), desc=title, unit="clip", disable=None) as bar:
            for part in self._listen(new, bar) if len(new) else ():
                self._write(part)
                parts.append(part.set_index("recording_id"))
        self._heard = pd.concat(parts) if len(parts) > 1 else self._heard
        return self._heard.reindex(recordings["recording_id"])

    def _listen(self, recordings: pd.DataFrame, bar: tqdm) -> Iterator[pd.DataFrame]:
        ids, locations = recordings["recording_id"].tolist(), recordings["location"].tolist()
        clips = ((index, data, locations[index]) for index, data in read_clips(locations))
        results = in_parallel(_features_or_problem, clips)
        while chunk := list(islice(results, CHECKPOINT_CLIPS)):
            rows = {ids[index]: (None, result if isinstance(result, str) else None) for index, result in chunk}
            good = [(ids[index], result) for index, result in chunk if not isinstance(result, str)]
            good.sort(key=lambda clip: len(clip[1]))  # so that a batch needs little padding
            bar.update(len(chunk) - len(good))
            for start in range(0, len(good), BATCH):
                names, features = zip(*good[start : start + BATCH], strict=True)
                rows |= {name: (row, None) for name, row in zip(names, self._model()(list(features)), strict=True)}
                bar.update(len(names))
            yield pd.DataFrame([(name, *row) for name, row in rows.items()], columns=HEARD.names)

    def _write(self, part: pd.DataFrame) -> None:
        path = self._folder / f"{len(list(self._folder.glob('*.parquet'))):05d}.parquet"
        with whole_file(path) as file:
            pq.write_table(pa.Table.from_pandas(part, HEARD, preserve_index=False), file)


def _features_or_problem(clip: tuple[int, bytes | None, str]) -> tuple[int, np.ndarray | str]:
    index, data, location = clip
    if data is None:
        return index, "there is no such file"
    try:
        samples, sample_rate_hz = decode(data, location)
    except UndecodableAudio as error:
        return index, error.reason
    samples = resample(samples[: MAX_FRAMES * sample_rate_hz // FRAMES_PER_SECOND], sample_rate_hz, SAMPLE_RATE_HZ)
    if not samples.any():
        return index, "digital silence, or nothing"
    return index, log_mel(samples)[:MAX_FRAMES].astype(DTYPE)
