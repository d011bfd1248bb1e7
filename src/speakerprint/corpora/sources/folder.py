"""A folder per speaker: ``root/<speaker>/…/<clip>.wav``, with what is known of the speakers in ``root/speakers.csv``."""

import os
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from speakerprint.audio.files import AUDIO_SUFFIXES, is_audio
from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.sources.clips import source_root
from speakerprint.corpora.tables import read_recording_table, read_rows
from speakerprint.errors import InputError
from speakerprint.params.sources import FolderSource

GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female", "other": "other", "": None}
SPEAKER_COLUMNS = ("speaker_id", "gender", "age", "accent", "locale")


def read_folder(source: FolderSource) -> pd.DataFrame:
    """The recordings below ``source.root``, in the schema of `recordings`; hidden files and folders are passed over.

    A recording_id is the path below the root without extension. ``speakers.csv`` has a column speaker_id and any of gender
    (m, male, f, female, other or nothing), age, accent and locale; it need not list every speaker and may list others.

    Raises InputError if there is no audio in a speaker's folder, or speakers.csv is malformed.
    """
    root = source_root(source.root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; set source.root to one that has a folder per speaker")
    rows = speaker_files(root)
    if rows.empty:
        loose = any(path.suffix.lower() in AUDIO_SUFFIXES for path in root.iterdir())
        found = "has audio, but none in a speaker's folder" if loose else f"has no audio ({' '.join(sorted(AUDIO_SUFFIXES))})"
        raise InputError(
            f"{root} {found}; put the recordings of each speaker in a folder of their own: {root}/<speaker>/<clip>.wav"
        )
    if (root / "speakers.csv").exists():
        rows = rows.merge(_read_speakers(root / "speakers.csv"), on="speaker_id", how="left", validate="many_to_one")
    return as_recordings(rows, str(root))


def read_folder_or_table(source: Path) -> pd.DataFrame:
    """The recordings of a folder per speaker as `read_folder` has them, or of a CSV with the columns speaker and path.

    A recording of a table is called by its path as the table has it. Raises InputError as `read_folder` and
    `tables.read_recording_table` do.
    """
    if source.is_dir():
        return read_folder(FolderSource(kind="folder", root=str(source)))
    rows = [(row.path, row.speaker, row.location) for row in read_recording_table(source)]
    return as_recordings(pd.DataFrame(rows, columns=["recording_id", "speaker_id", "location"], dtype="str"), str(source))


def speaker_files(folder: Path, speakers: str = "*") -> pd.DataFrame:
    """recording_id, speaker_id and location of all audio below those subfolders of ``folder`` that match ``speakers``.

    Raises InputError for two files whose names differ in the extension only, and for a name that is not UTF-8.
    """
    rows: list[tuple[str, str, str]] = []
    speaker_folders = sorted(path for path in folder.glob(speakers) if path.is_dir() and not path.name.startswith("."))
    for speaker in tqdm(speaker_folders, desc=str(folder), unit="speaker", disable=None):
        for parent, subfolders, names in os.walk(speaker):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            below = Path(parent).relative_to(folder).as_posix()
            for name in names:
                if is_audio(name):
                    rows.append((f"{below}/{Path(name).stem}", speaker.name, (Path(parent) / name).as_posix()))
    for *_, location in rows:
        try:
            location.encode()
        except UnicodeEncodeError:
            raise InputError(f"{location!a}: the name is not UTF-8; rename the file or folder") from None
    table = pd.DataFrame(rows, columns=["recording_id", "speaker_id", "location"], dtype="str")
    refuse_twins(table)
    return table


def refuse_twins(rows: pd.DataFrame) -> None:
    """Raise InputError if two files would have the same recording_id."""
    twins = rows[rows["recording_id"].duplicated(keep=False)].sort_values(["recording_id", "location"])
    if len(twins):
        first, second = twins["location"].iloc[:2]
        raise InputError(f"{first} and {second} would both be recording {twins['recording_id'].iloc[0]!r}; rename or remove one")


def parse_gender(text: str, where: str) -> str | None:
    """One of recordings.GENDERS or None. Raises InputError for what is not a gender."""
    if text.lower() not in GENDERS:
        raise InputError(f"{where}: gender {text!r}; expected one of {', '.join(filter(None, GENDERS))}, or nothing")
    return GENDERS[text.lower()]


def _read_speakers(path: Path) -> pd.DataFrame:
    speakers: dict[str, dict[str, str | None]] = {}
    for where, row in read_rows(path):
        unknown = [column for column in row if column not in SPEAKER_COLUMNS]
        if unknown or "speaker_id" not in row:
            raise InputError(f"{path}: columns {', '.join(row)}; expected speaker_id and any of {', '.join(SPEAKER_COLUMNS[1:])}")
        if not row["speaker_id"] or row["speaker_id"] in speakers:
            raise InputError(f"{where}: speaker_id {row['speaker_id']!r}; expected one line for each speaker")
        known: dict[str, str | None] = {column: value or None for column, value in row.items()}
        if "gender" in row:
            known["gender"] = parse_gender(row["gender"], where)
        speakers[row["speaker_id"]] = known
    return pd.DataFrame(list(speakers.values()), columns=list(SPEAKER_COLUMNS), dtype="str")
