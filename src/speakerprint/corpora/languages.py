"""Which language a recording is in: its locale's or, where it has none, what a table of languages says.

A table has a row for each group of recordings that share a decision. A group is a recording's id, or what its id begins with up
to the last slash: of VoxCeleb's ``speaker/video/utterance`` a video, all of it in one language.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from speakerprint.corpora.parquet import refuse_damaged
from speakerprint.errors import InputError
from speakerprint.files import whole_file

SCHEMA = pa.schema(
    [
        ("group", pa.string()),
        ("language", pa.string()),  # Whisper's code: en, zh, …; null where nothing could be heard
        ("probability", pa.float32()),  # of that language; null with it
        ("clips", pa.int32()),  # that were heard; 0 where the row is of a table that the user gave
    ]
)


def groups_of(recordings: pd.DataFrame, source_kind: str) -> pd.Series:
    """The group of each recording: its video if the corpus has videos, else its own id."""
    ids = recordings["recording_id"]
    return ids.astype("string").str.rsplit("/", n=1).str[0] if source_kind == "voxceleb" else ids


def languages_of(recordings: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """The language of each recording, in the index of ``recordings``; null if it is unknown.

    That of its locale (``zh`` of ``zh-CN``) or, if it has none, that of its group in ``table``.
    """
    known = table.set_index("group")["language"]
    ids, locales = (recordings[column].astype("string") for column in ("recording_id", "locale"))
    named = [names.map(known).astype("string") for names in (ids, ids.str.rsplit("/", n=1).str[0])]
    return locales.str.split("-").str[0].fillna(named[0]).fillna(named[1])


def write_languages(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table of the schema as parquet, sorted by group; the same table gives the same bytes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rows = table.sort_values("group", ignore_index=True)
    with whole_file(path) as part:
        pq.write_table(pa.Table.from_pandas(rows, SCHEMA, preserve_index=False).replace_schema_metadata(None), part)


def read_languages(path: str | Path) -> pd.DataFrame:
    """Read a table of languages; a user's own may lack ``probability`` (1) and ``clips`` (0).

    Raises InputError if the file is missing, is no parquet file, lacks a column, has a probability outside 0 to 1, or names a
    group twice.
    """
    with refuse_damaged(path, "make it with `dvc repro`, or as data/given/README.md says"):
        return _checked(pd.read_parquet(path), path)


def _checked(table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    table = pd.DataFrame({"probability": 1.0, "clips": 0}, index=table.index).assign(**table)
    missing = [name for name in SCHEMA.names if name not in table]
    if missing:
        raise InputError(f"{path} has columns {list(table)}, but no {missing[0]}; data/given/README.md says what a table has")
    twice = table["group"][table["group"].duplicated()]
    if len(twice):
        raise InputError(f"{path}: group {twice.iloc[0]!r} occurs more than once; a group has one language")
    strange = table[~(table["probability"].between(0, 1) | table["language"].isna())]
    if len(strange):
        raise InputError(
            f"{path}: group {strange['group'].iloc[0]!r} has probability {strange['probability'].iloc[0]}, expected 0 to 1"
        )
    return pa.Table.from_pandas(table[SCHEMA.names], SCHEMA, preserve_index=False).to_pandas()


def empty_table() -> pd.DataFrame:
    """A table without a row."""
    return SCHEMA.empty_table().to_pandas()
