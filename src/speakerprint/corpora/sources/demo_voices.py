"""Synthetic voices as a folder for each speaker, to try commands with: those of the embedded corpus, under names to remember."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from speakerprint.corpora.sources import read_source
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.params.sources import EspeakSource

SEED = 1


def write_voices(folder: str | Path, split: str, names: Sequence[str], recordings_per_speaker: int = 6) -> None:
    """Write recordings of as many synthetic speakers as there are names: folder/NAME/1.mp3 and so on.

    split: whose speakers, "train", "dev" or "test"; no speaker is in two. The same names give the same bytes. Raises InputError
    for an unknown split, or if eSpeak NG cannot be used.
    """
    source = EspeakSource(
        kind="espeak", splits=[split], speakers=len(names), recordings_per_speaker=recordings_per_speaker, seed=SEED
    )
    with tempfile.TemporaryDirectory() as release:
        table = read_source(source, release)
        name_of = dict(zip(table["speaker_id"].unique(), names, strict=True))
        number = table.groupby("speaker_id").cumcount() + 1
        for index, clip in read_clips(table["location"]):
            path = Path(folder, name_of[table["speaker_id"][index]], f"{number[index]}.mp3")
            assert clip is not None, "it was made a moment ago"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(clip)
