"""The one table that flows through the pipeline: a row is a recording, from `download` to `evaluate`.

A source that lacks a field leaves it null. ``location`` is where the audio is: a path, relative to the project's root or
absolute, in which one part may be a tar archive (``release.tar.gz/cv-corpus/fr/clips/a.mp3``).
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from speakerprint.errors import InputError

SCHEMA = pa.schema(
    [
        ("recording_id", pa.string()),  # unique within a corpus
        ("speaker_id", pa.string()),
        ("locale", pa.string()),
        ("gender", pa.string()),  # one of GENDERS, or null
        ("age", pa.string()),
        ("accent", pa.string()),  # for VoxCeleb, the nationality
        ("up_votes", pa.int32()),
        ("down_votes", pa.int32()),
        ("split", pa.string()),
        ("location", pa.string()),
        ("duration_s", pa.float32()),  # null until known; exact after `resample`
    ]
)
GENDERS = ("male", "female", "other")
REQUIRED = ("recording_id", "speaker_id", "location")


def as_recordings(rows: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Bring rows to the schema: column order, types, nulls for what is missing; sorted by recording_id.

    ``origin`` names where the rows come from, for messages. Raises InputError for unknown columns, null ids, an unknown
    gender, or a recording_id that occurs twice.
    """
    unknown = sorted(set(rows.columns) - set(SCHEMA.names))
    if unknown:
        raise InputError(f"{origin}: unknown columns {unknown}; a recording has {SCHEMA.names}")
    table = rows.reindex(columns=SCHEMA.names)
    for name in REQUIRED:
        empty = table[name].isna() | (table[name] == "")
        if empty.any():
            raise InputError(f"{origin}: row {int(empty.to_numpy().argmax()) + 1} has no {name}; every recording needs one")
    strange = sorted(set(table["gender"].dropna()) - set(GENDERS))
    if strange:
        raise InputError(f"{origin}: unknown gender {strange[0]!r}; expected one of {GENDERS} or nothing")
    twice = table["recording_id"][table["recording_id"].duplicated()]
    if len(twice):
        raise InputError(f"{origin}: recording_id {twice.iloc[0]!r} occurs more than once; ids must be unique in a corpus")
    table = table.sort_values("recording_id", kind="stable", ignore_index=True)
    return pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False).to_pandas()


def write_recordings(recordings: pd.DataFrame, path: str | Path) -> None:
    """Write a table of the schema as parquet; the same table gives the same bytes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(recordings[SCHEMA.names], schema=SCHEMA, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")


def read_recordings(path: str | Path) -> pd.DataFrame:
    """Read a table written by write_recordings. Raises InputError if the file is missing or has other columns."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `dvc repro` to make it") from None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a parquet file ({error}); run `dvc repro` to make it again") from None
    if table.schema.names != SCHEMA.names:
        raise InputError(f"{path} has columns {table.schema.names}, expected {SCHEMA.names}; run `dvc repro` to make it again")
    return table.to_pandas()
