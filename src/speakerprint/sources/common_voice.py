"""Mozilla Common Voice, releases 6.1 to 17 and later, from a folder or from the archives as downloaded.

A release is one folder a locale: ``cv-corpus-17.0-2024-03-15/fr/{train,dev,test,validated,…}.tsv`` and ``clips/*.mp3``.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from speakerprint.errors import InputError
from speakerprint.params import CommonVoiceSource
from speakerprint.recordings import as_recordings
from speakerprint.sources.clips import ARCHIVE_SUFFIXES, read_archive, source_root

REQUIRED = {"client_id": pa.string(), "path": pa.string(), "up_votes": pa.int32(), "down_votes": pa.int32()}
OPTIONAL = ("age", "gender", "accents", "accent", "locale")  # `accent` up to release 7, then `accents`
DURATIONS = "clip_durations"
DURATION_COLUMNS = {"clip": pa.string(), "duration[ms]": pa.int64()}
GENDERS = {  # of all releases; what is not listed, such as do_not_wish_to_say, is unknown
    "male": "male",
    "male_masculine": "male",
    "female": "female",
    "female_feminine": "female",
    "other": "other",
    "intersex": "other",
    "transgender": "other",
    "non-binary": "other",
}


def read_common_voice(source: CommonVoiceSource) -> pd.DataFrame:
    """The recordings of the requested splits and locales, in the schema of `recordings`.

    ``source.root`` is a release's folder, the folder it lies in, one locale's folder, an archive as downloaded, or a folder of
    such archives. A clip of several requested splits is taken once, in the split listed first. A recording_id is the clip's
    name without extension, after ``locale/`` where two locales share one; a client_id is one speaker in all locales.

    Raises InputError if a locale, a split or a column is missing, a row is malformed, or the splits hold no recording at all.
    """
    root = source_root(source.root)

    def wanted(tsv: str) -> bool:
        folder, name = _locale_folder(tsv), PurePosixPath(tsv).stem
        return name in (*source.splits, DURATIONS) and (source.locales is None or _locale(folder) in source.locales)

    folders: dict[str, dict[str, pd.DataFrame | None]] = {}  # locale folder -> name of a TSV -> its table, if wanted
    for tsv, data in _tsvs(root, wanted):
        name = PurePosixPath(tsv).stem
        types, optional = (DURATION_COLUMNS, ()) if name == DURATIONS else (REQUIRED, OPTIONAL)
        table = None if data is None else _read_tsv(data, tsv, types, optional)
        folders.setdefault(_locale_folder(tsv), {})[name] = table

    if not folders:
        raise InputError(f"{root} is not a Common Voice release: it has no <locale>/*.tsv and no archive with some")
    by_locale: dict[str, str] = {}
    for folder in sorted(folders):
        other = by_locale.setdefault(_locale(folder), folder)
        if other != folder:
            raise InputError(f"{root} has locale {_locale(folder)!r} twice: {other} and {folder}; set source.root to one of them")
    for locale in source.locales or ():
        if locale not in by_locale:
            raise InputError(f"{root} has no locale {locale!r}; it has {', '.join(by_locale)}")

    parts = []
    for locale in dict.fromkeys(source.locales or by_locale):
        folder = by_locale[locale]
        parts.append(_locale_recordings(folder, folders[folder], source.splits).fillna({"locale": locale}).assign(folder=locale))
    rows = pd.concat(parts, ignore_index=True)
    if rows.empty:
        raise InputError(f"{root} has no recording in {', '.join(source.splits)}; choose other splits or locales")
    shared = rows["recording_id"].duplicated(keep=False)
    rows.loc[shared, "recording_id"] = rows["folder"][shared] + "/" + rows["recording_id"][shared]
    return as_recordings(rows.drop(columns="folder"), str(root))


def _locale_folder(tsv: str) -> str:
    return str(PurePosixPath(tsv).parent)


def _locale(folder: str) -> str:
    """The locale a folder is named after; for TSVs at the top of an archive, the archive's own name."""
    name = Path(folder).name or Path(folder).resolve().name
    return re.sub(r"\.(tar|tar\.gz|tgz)$", "", name)


def _tsvs(root: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
    """Yield (path, bytes; None if not wanted) of every TSV of the release."""
    if root.is_file():
        if not root.name.endswith(ARCHIVE_SUFFIXES):
            raise InputError(f"{root} is neither a folder nor one of {ARCHIVE_SUFFIXES}; set source.root to a release")
        yield from _archive_tsvs(root, wanted)
        return
    archives = sorted(path for path in root.iterdir() if path.name.endswith(ARCHIVE_SUFFIXES) and path.is_file())
    releases = sorted(path for path in root.glob("cv-corpus-*") if path.is_dir())
    unpacked: list[Path] = []
    for pattern in ("*.tsv", "*/*.tsv", "cv-corpus-*/*.tsv", "cv-corpus-*/*/*.tsv"):
        unpacked = unpacked or sorted(path for path in root.glob(pattern) if not _is_hidden(path.relative_to(root)))
    if len(releases) > 1 or (archives and unpacked):
        found = ", ".join(path.name for path in [*releases, *archives])
        raise InputError(f"{root} holds more than one release ({found}); set source.root to the one to read")
    for path in unpacked:
        tsv = path.as_posix()
        yield tsv, path.read_bytes() if wanted(tsv) else None
    for archive in archives:
        yield from _archive_tsvs(archive, wanted)


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _archive_tsvs(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
    unwanted = []

    def wanted_member(name: str) -> bool:
        path = PurePosixPath(archive.as_posix(), name)
        if path.suffix != ".tsv" or _is_hidden(PurePosixPath(name)):
            return False
        if not wanted(str(path)):
            unwanted.append(str(path))
            return False
        return True

    for name, data in read_archive(archive, wanted_member):
        yield str(PurePosixPath(archive.as_posix(), name)), data
    yield from ((tsv, None) for tsv in unwanted)


def _read_tsv(data: bytes, tsv: str, types: Mapping[str, pa.DataType], optional: Sequence[str]) -> pd.DataFrame:
    """The columns of ``types`` (all must be there, with a value in each row) and those of ``optional`` that are there."""
    header = data.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").rstrip("\r").split("\t")
    for column in types:
        if column not in header:
            raise InputError(
                f"{tsv}: no column {column!r}; found {', '.join(header)}; is this one of the release's lists of clips?"
            )
    columns = [*types, *(column for column in optional if column in header)]
    damaged = "the file is damaged; unpack or download the release again"
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),  # a quote in a sentence is a quote
            convert_options=csv.ConvertOptions(
                column_types={column: pa.string() for column in header} | dict(types),  # all, so that all is checked to be UTF-8
                null_values=[""],
                strings_can_be_null=True,
            ),
        ).select(columns)
    except pa.ArrowInvalid as error:
        raise InputError(f"{tsv}, {_first_fault(data, header, types) or error}; {damaged}") from None
    if any(table[column].null_count for column in types):
        raise InputError(f"{tsv}, {_first_fault(data, header, types)}; {damaged}")
    return table.to_pandas()


def _first_fault(data: bytes, header: Sequence[str], types: Mapping[str, pa.DataType]) -> str | None:
    """Where and why a TSV that could not be parsed is at fault."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            fields = line.decode().rstrip("\r").split("\t")
        except UnicodeDecodeError as error:
            return f"line {number}: byte {error.start + 1} is not UTF-8"
        if number == 1 or fields == [""]:
            continue
        if len(fields) != len(header):
            return f"line {number}: {len(fields)} columns, expected {len(header)}"
        for column, type_ in types.items():
            value = fields[header.index(column)]
            if pa.types.is_integer(type_) and not re.fullmatch(r"-?\d+", value):
                return f"line {number}, column {column}: expected a whole number, found {value!r}"
            if not value:
                return f"line {number}, column {column}: empty"
    return None


def _locale_recordings(folder: str, tables: Mapping[str, pd.DataFrame | None], splits: Sequence[str]) -> pd.DataFrame:
    parts = []
    for split in splits:
        table = tables.get(split)
        if table is None:
            lists = ", ".join(sorted(tables))
            raise InputError(f"{folder} has no {split}.tsv; it has {lists}; list some of those in source.splits")
        parts.append(table.assign(split=split))
    rows = pd.concat(parts, ignore_index=True).reindex(columns=[*REQUIRED, *OPTIONAL, "split"])
    rows = rows.astype(dict.fromkeys(OPTIONAL, "str"))

    outside = rows["path"].str.contains(r"^/|(?:^|/)\.\.(?:/|$)")
    if outside.any():
        row = rows[outside].iloc[0]
        raise InputError(f"{folder}/{row['split']}.tsv: path {row['path']!r} leads out of the release; remove the row")
    rows = rows.drop_duplicates(["path", "client_id"])
    contested = rows["path"].duplicated()
    if contested.any():
        raise InputError(
            f"{folder}: clip {rows['path'][contested].iloc[0]!r} is listed with two client_ids; remove one of the rows"
        )

    name = rows["path"].str.replace(r"\.\w+$", "", regex=True)
    clip = rows["path"].where(name != rows["path"], rows["path"] + ".mp3")  # early releases leave the extension out
    recordings = pd.DataFrame(
        {
            "recording_id": name,
            "speaker_id": rows["client_id"],
            "locale": rows["locale"],
            "gender": rows["gender"].map(GENDERS),
            "age": rows["age"],
            "accent": rows["accents"].fillna(rows["accent"]),
            "up_votes": rows["up_votes"],
            "down_votes": rows["down_votes"],
            "split": rows["split"],
            "location": f"{folder}/clips/" + clip,
        }
    )
    durations = tables.get(DURATIONS)
    if durations is not None:
        milliseconds = durations.drop_duplicates("clip").set_index("clip")["duration[ms]"]
        recordings["duration_s"] = clip.map(milliseconds).astype("float64") / 1000
    return recordings
