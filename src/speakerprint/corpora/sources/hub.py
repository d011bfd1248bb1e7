"""A dataset repository of parquet files, on the Hugging Face hub or in a folder, with Common Voice's columns or named ones.

`datasets` finds the files of a configuration's splits; of them the metadata columns alone are read here, by range requests.
Which file and row holds a recording's audio is its location, and `resample` fetches only the rows that `filter` selected.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from joblib import Parallel, delayed
from tqdm import tqdm

from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.sources.clips import open_parquet
from speakerprint.corpora.sources.common_voice import GENDERS
from speakerprint.corpora.sources.folder import GENDERS as SHORT_GENDERS
from speakerprint.errors import InputError
from speakerprint.params.sources import HubSource

COLUMNS = {  # what Common Voice calls them; of the first that is there
    "recording_id": ["path"],
    "speaker_id": ["client_id"],
    "locale": ["locale"],
    "gender": ["gender"],
    "age": ["age"],
    "accent": ["accents", "accent"],
    "up_votes": ["up_votes"],
    "down_votes": ["down_votes"],
    "duration_s": [],
    "audio": ["audio"],
}
REQUIRED = ("speaker_id", "audio")
NUMBERS = {"up_votes": pa.int32(), "down_votes": pa.int32(), "duration_s": pa.float32()}
CONNECTIONS = 8  # files whose metadata are read at once: each waits for the hub most of the time


def read_hub(source: HubSource) -> pd.DataFrame:
    """The recordings of the requested splits, in the schema of `recordings`; no audio is fetched.

    A recording_id is the clip's name without folder and extension, where the dataset has Common Voice's column ``path``; else
    what ``source.columns`` names, or ``split/row``. A clip of several requested splits is taken once, in the one listed first.

    Raises InputError if the repository, its revision, configuration, split or a column is missing, its terms are not accepted,
    the hub does not answer, it holds something else than parquet, or a value is of a wrong type.
    """
    origin = f"{source.repository}@{source.revision}" if source.revision else source.repository
    files = _data_files(source, origin)
    parts = []
    for split in source.splits:
        if split not in files:
            raise InputError(f"{origin} has no split {split!r}; it has {', '.join(files)}; list some of those in source.splits")
        jobs = [delayed(_read_file)(file, source.columns or {}) for file in files[split]]
        tables = Parallel(n_jobs=CONNECTIONS, prefer="threads", return_as="generator")(jobs)
        rows = pd.concat(tqdm(tables, f"{split}", len(jobs), unit="file", disable=None), ignore_index=True)
        if "recording_id" not in rows:
            rows["recording_id"] = split + "/" + rows.index.astype(str).str.zfill(8)
        parts.append(rows.assign(split=split))
    rows = pd.concat(parts, ignore_index=True)
    if rows.empty:
        raise InputError(f"{origin} has no recording in {', '.join(source.splits)}; choose other splits")
    return as_recordings(rows.drop_duplicates(["recording_id", "speaker_id"]), origin)


def _data_files(source: HubSource, origin: str) -> dict[str, list[str]]:
    """Paths or hf:// addresses of each split's files."""
    import datasets  # a second to import

    folder = Path(source.repository).expanduser()
    if not folder.is_dir() and source.revision is None:
        raise InputError(
            f"source.repository is {source.repository!r}, which is no folder here, and source.revision is empty; a dataset on "
            "the hub needs the commit (40 hexadecimal digits, in the history of its files), so that it stays the same data"
        )
    path = str(folder) if folder.is_dir() else source.repository
    try:
        found = datasets.load_dataset_builder(path, source.configuration, revision=source.revision).config.data_files
    except Exception as error:  # of the hub client's HTTP library too, whichever that is
        if isinstance(error, datasets.exceptions.DatasetNotFoundError):
            remedy = (
                "correct source.repository or source.revision; if it is private or gated, accept its terms on its page and "
                "sign in (`hf auth login`, or the variable HF_TOKEN)"
            )
        elif isinstance(error, ValueError):
            remedy = "correct source.configuration"
        elif isinstance(error, FileNotFoundError):
            remedy = "set source.repository to a dataset of parquet files"
        else:
            remedy = "check the connection and run `dvc repro` again"
        raise InputError(f"{origin} cannot be had: {str(error).strip() or type(error).__name__}; {remedy}") from None
    files = {str(split): [str(file) for file in of_split] for split, of_split in (found or {}).items()}
    for file in (file for of_split in files.values() for file in of_split):
        if not file.endswith(".parquet"):
            raise InputError(
                f"{origin} holds {file}, which is not parquet; the hub converts most datasets: set source.revision to the "
                "commit of its branch refs/convert/parquet"
            )
    return files


def _read_file(file: str, named: dict[Any, str]) -> pd.DataFrame:
    """The metadata and location of each row of a parquet file."""
    from datasets import ClassLabel, Features

    with open_parquet(file) as parquet:
        schema = parquet.schema_arrow
        columns = {}
        for field, usual in COLUMNS.items():
            candidates = [named[field]] if field in named else usual
            there = [column for column in candidates if column in schema.names]
            if there:
                columns[field] = there[0]
            elif field in named or field in REQUIRED:
                raise InputError(
                    f"{file}: no column {candidates[0]!r} for {field}; it has {', '.join(schema.names)}; "
                    f"name the right one under source.columns.{field}"
                )
        audio = columns.pop("audio")
        type_ = schema.field(audio).type
        if not (pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0) and not _is_binary(type_):
            raise InputError(
                f"{file}: column {audio!r} holds {type_}, not audio files; name the right one under source.columns.audio"
            )
        table = parquet.read(columns=list(set(columns.values())))
        features = Features.from_arrow_schema(schema)

    rows = pd.DataFrame(index=range(table.num_rows))
    for field, column in columns.items():
        values = table[column]
        if isinstance(label := features[column], ClassLabel):
            values = pa.array([None if value is None or value < 0 else label.names[value] for value in values.to_pylist()])
        try:
            rows[field] = values.cast(NUMBERS.get(field, pa.string())).to_pandas()
        except pa.ArrowException as error:
            raise InputError(f"{file}, column {column!r} for {field}: {error}; name another under source.columns") from None
    empty = rows["speaker_id"].fillna("") == ""
    if empty.any():
        raise InputError(
            f"{file}, row {int(empty.to_numpy().argmax())}: nothing in column {columns['speaker_id']!r}; every recording needs "
            "a speaker: name another column under source.columns.speaker_id, or another split"
        )
    if "gender" in rows:
        rows["gender"] = rows["gender"].str.lower().map(SHORT_GENDERS | GENDERS)
    if "recording_id" in rows and "recording_id" not in named:
        rows["recording_id"] = rows["recording_id"].str.replace(r"^.*/|\.\w+$", "", regex=True)
    return rows.assign(location=f"{file}/{audio}/" + rows.index.astype(str))


def _is_binary(type_: pa.DataType) -> bool:
    return pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
