"""Mozilla Common Voice, releases 6.1 to 17 and later, from a folder or from the archives as downloaded.

A release is one folder a locale: ``cv-corpus-17.0-2024-03-15/fr/{train,dev,test,validated,…}.tsv`` and ``clips/*.mp3``.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from speakerprint.corpora.recordings import SCHEMA, as_recordings, sort_on_disk
from speakerprint.corpora.sharing import SharedFolder, file_state
from speakerprint.corpora.sources.clips import ARCHIVE_SUFFIXES, MAX_LIST_BYTES, read_archive, source_root
from speakerprint.errors import InputError
from speakerprint.files import whole_file, write_text
from speakerprint.params.sources import CommonVoiceSource

REQUIRED = {"client_id": pa.string(), "path": pa.string(), "up_votes": pa.int32(), "down_votes": pa.int32()}
OPTIONAL = ("age", "gender", "accents", "accent", "locale")  # `accent` up to release 7, then `accents`
DURATIONS = "clip_durations"
DURATION_COLUMNS = {"clip": pa.string(), "duration[ms]": pa.int64()}
LINES = pa.schema(  # a line of a list of clips, or of durations: without a client_id
    [
        ("recording_id", pa.string()),  # without the locale
        ("number", pa.int64()),  # of the line in its file, plus SPLIT_LINES for each split that is listed before its own
        ("folder", pa.int32()),
        *REQUIRED.items(),
        *((column, pa.string()) for column in OPTIONAL),
        ("duration[ms]", pa.int64()),
    ]
)
SPLIT_LINES = 1 << 40
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


@dataclass(frozen=True)
class SharedLists:
    """The lists of clips that corpora of one archive leave for each other, so that it is read once for the lists of all.

    later: splits and locales (None: all) that the corpora in ``folder.waiting`` read of the same archives. Without any, lists
    come straight from the archive.
    """

    folder: SharedFolder
    later: Sequence[tuple[Sequence[str], Sequence[str] | None]] = ()


def read_common_voice(source: CommonVoiceSource, shared: SharedLists | None = None) -> Iterator[pd.DataFrame]:
    """Yield the recordings of the requested splits and locales, in the schema of `recordings`, chunk by chunk, sorted by id.

    ``source.root`` is a release's folder, the folder it lies in, one locale's folder, an archive as downloaded, or a folder of
    such archives. A clip of several requested splits is taken once, in the split listed first. A recording_id is the clip's
    name without extension, after ``locale/`` where two locales share one; a client_id is one speaker in all locales.

    Raises InputError if a locale, a split or a column is missing, a row is malformed, or the splits hold no recording at all.
    """
    root = source_root(source.root)
    folders: list[str] = []
    sorted_lines = sort_on_disk(_lines(root, source, folders, shared), LINES, ["recording_id", "number"])
    recordings = (_recordings(lines.to_pandas(), folders, source.splits) for lines in sorted_lines)
    if len(folders) > 1:  # an id that locales share has got another place in the order
        tables = (pa.Table.from_pandas(rows, SCHEMA, preserve_index=False) for rows in recordings)
        recordings = (table.to_pandas() for table in sort_on_disk(tables, SCHEMA, ["recording_id"]))
    empty = True
    for rows in recordings:
        if len(rows):
            yield as_recordings(rows, str(root))
            empty = False
    if empty:
        raise InputError(f"{root} has no recording in {', '.join(source.splits)}; choose other splits or locales")


def _is_wanted(tsv: str, splits: Sequence[str], locales: Sequence[str] | None) -> bool:
    return PurePosixPath(tsv).stem in (*splits, DURATIONS) and (locales is None or _locale(_locale_folder(tsv)) in locales)


def _lines(root: Path, source: CommonVoiceSource, folders: list[str], shared: SharedLists | None = None) -> Iterator[pa.Table]:
    """Yield the lines of all wanted TSVs in the schema LINES; puts the locale folders they are of into ``folders``."""
    lists: dict[str, list[str]] = {}  # locale folder -> names of its TSVs, wanted or not
    for tsv, file in _tsvs(root, lambda tsv: _is_wanted(tsv, source.splits, source.locales), shared):
        folder, name = _locale_folder(tsv), PurePosixPath(tsv).stem
        lists.setdefault(folder, []).append(name)
        if file is not None:
            if folder not in folders:
                folders.append(folder)
            number = SPLIT_LINES * (0 if name == DURATIONS else source.splits.index(name))
            yield from _read_tsv(file, tsv, folders.index(folder), number)

    if not lists:
        raise InputError(f"{root} is not a Common Voice release: it has no <locale>/*.tsv and no archive with some")
    by_locale: dict[str, str] = {}
    for folder in sorted(lists):
        other = by_locale.setdefault(_locale(folder), folder)
        if other != folder:
            raise InputError(f"{root} has locale {_locale(folder)!r} twice: {other} and {folder}; set source.root to one of them")
    for locale in source.locales or by_locale:
        if locale not in by_locale:
            raise InputError(f"{root} has no locale {locale!r}; it has {', '.join(by_locale)}")
        folder = by_locale[locale]
        for split in source.splits:
            if split not in lists[folder]:
                there = ", ".join(sorted(lists[folder]))
                raise InputError(f"{folder} has no {split}.tsv; it has {there}; list some of those in source.splits")


def _locale_folder(tsv: str) -> str:
    return str(PurePosixPath(tsv).parent)


def _locale(folder: str) -> str:
    """The locale a folder is named after; for TSVs at the top of an archive, the archive's own name."""
    name = Path(folder).name or Path(folder).resolve().name
    return re.sub(r"\.(tar|tar\.gz|tgz)$", "", name)


def _tsvs(root: Path, wanted: Callable[[str], bool], shared: SharedLists | None = None) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield (path, open file; None if not wanted) of every TSV of the release."""
    if root.is_file():
        if not root.name.endswith(ARCHIVE_SUFFIXES):
            raise InputError(f"{root} is neither a folder nor one of {ARCHIVE_SUFFIXES}; set source.root to a release")
        yield from _shared_tsvs(root, wanted, shared)
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
        yield tsv, path.open("rb") if wanted(tsv) else None
    for archive in archives:
        yield from _shared_tsvs(archive, wanted, shared)


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _shared_tsvs(
    archive: Path, wanted: Callable[[str], bool], shared: SharedLists | None
) -> Iterator[tuple[str, IO[bytes] | None]]:
    """As _archive_tsvs; what a corpus has read of the archive for those after it comes from the folder they share."""
    if shared is None:
        yield from _archive_tsvs(archive, wanted)
        return
    state = hashlib.sha256(f"{archive.resolve()} {file_state(archive)}".encode()).hexdigest()[:16]
    place = shared.folder.path / state
    listing = place / "lists.json"  # path of each TSV, and of its copy if some corpus wants it
    with shared.folder.lock:
        copies: dict[str, str | None] = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else {}
        lacking = not copies or any(copy is None and wanted(tsv) for tsv, copy in copies.items())
        if lacking and shared.later:
            copies = _copy_tsvs(archive, lambda tsv: wanted(tsv) or any(_is_wanted(tsv, *one) for one in shared.later), place)
            write_text(json.dumps(copies), listing)
            lacking = False
    if lacking:
        yield from _archive_tsvs(archive, wanted)
        return
    for tsv, copy in copies.items():
        yield tsv, Path(copy).open("rb") if copy is not None and wanted(tsv) else None  # noqa: SIM115


def _copy_tsvs(archive: Path, wanted: Callable[[str], bool], place: Path) -> dict[str, str | None]:
    """Copy wanted TSVs of an archive into an empty folder; returns each TSV's path and that of its copy, if it has one."""
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    place.mkdir(parents=True)
    copies: dict[str, str | None] = {}
    for tsv, file in _archive_tsvs(archive, wanted):
        copies[tsv] = None
        if file is not None:
            path = place / f"{len(copies)}.tsv"
            with file, whole_file(path) as part, part.open("wb") as copy:
                shutil.copyfileobj(file, copy)
            copies[tsv] = str(path)
    return copies


def _archive_tsvs(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
    unwanted = []

    def wanted_member(name: str) -> bool:
        path = PurePosixPath(archive.as_posix(), name)
        if path.suffix != ".tsv" or _is_hidden(PurePosixPath(name)):
            return False
        if not wanted(str(path)):
            unwanted.append(str(path))
            return False
        return True

    for name, file in read_archive(archive, wanted_member, _unpacked, MAX_LIST_BYTES):
        yield str(PurePosixPath(archive.as_posix(), name)), file
    yield from ((tsv, None) for tsv in unwanted)


def _unpacked(member: IO[bytes]) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(member, file)
    file.seek(0)
    return file


def _read_tsv(file: IO[bytes], tsv: str, folder: int, number: int) -> Iterator[pa.Table]:
    """Yield a TSV's lines in the schema LINES, numbered from ``number``; closes the file.

    All columns of REQUIRED, or of DURATION_COLUMNS, must be there, with a value in each line; those of OPTIONAL may be.
    """
    types = DURATION_COLUMNS if PurePosixPath(tsv).stem == DURATIONS else REQUIRED
    damaged = "the file is damaged; unpack or download the release again"
    with file:
        header = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n").split("\t")
        for column in types:
            if column not in header:
                raise InputError(
                    f"{tsv}: no column {column!r}; found {', '.join(header)}; is this one of the release's lists of clips?"
                )
        named = ["path" if column == "clip" else column for column in header]  # as `_as_lines` has them
        if twice := [column for column in named if named.count(column) > 1]:
            raise InputError(f"{tsv}: more than one column {twice[0]!r}; {damaged}")
        file.seek(0)
        try:
            lines = csv.open_csv(
                pa.PythonFile(file, "r"),
                read_options=csv.ReadOptions(use_threads=False, block_size=1 << 18),  # threads would read ahead
                parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),  # a quote in a sentence is a quote
                convert_options=csv.ConvertOptions(
                    column_types={column: pa.string() for column in header} | types,  # all, so that all is checked to be UTF-8
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
            if unread := types.keys() - set(lines.schema.names):  # the first line may hold what else ends a line
                raise pa.ArrowInvalid(f"line 1: the column {min(unread)} is not read")
            for batch in lines:
                if any(batch[column].null_count for column in types):
                    raise pa.ArrowInvalid
                yield _as_lines(batch, tsv, folder, number)
                number += len(batch)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:  # the second for the name of a column
            raise InputError(f"{tsv}, {_first_fault(file, header, types) or error}; {damaged}") from None


def _as_lines(batch: pa.RecordBatch, tsv: str, folder: int, number: int) -> pa.Table:
    if "clip" in batch.schema.names:
        batch = batch.rename_columns({"clip": "path"})
    elif outside := pc.filter(batch["path"], pc.match_substring_regex(batch["path"], r"^/|(?:^|/)\.\.(?:/|$)")):
        raise InputError(f"{tsv}: path {outside[0].as_py()!r} leads out of the release; remove the row")
    known = {name: batch[name] for name in batch.schema.names}
    known["recording_id"] = pc.replace_substring_regex(batch["path"], r"\.\w+$", "")
    known["number"] = pa.array(range(number, number + len(batch)))
    known["folder"] = pa.repeat(pa.scalar(folder, pa.int32()), len(batch))
    return pa.table([known.get(field.name, pa.nulls(len(batch), field.type)) for field in LINES], schema=LINES)


def _first_fault(file: IO[bytes], header: Sequence[str], types: Mapping[str, pa.DataType]) -> str | None:
    """Where and why a TSV that could not be parsed is at fault."""
    file.seek(0)
    for number, line in enumerate(file, start=1):
        try:
            fields = line.decode().rstrip("\r\n").split("\t")
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


def _recordings(lines: pd.DataFrame, folders: Sequence[str], splits: Sequence[str]) -> pd.DataFrame:
    """The recordings of sorted lines; all lines of a recording_id are among them."""
    lines["folder"] = lines["folder"].map(dict(enumerate(folders)))
    of_clip = lines["client_id"].notna()
    rows = lines[of_clip].drop_duplicates(["folder", "path", "client_id"]).drop(columns="duration[ms]")
    contested = rows[rows.duplicated(["folder", "path"])]
    if len(contested):
        folder, path = contested[["folder", "path"]].iloc[0]
        raise InputError(f"{folder}: clip {path!r} is listed with two client_ids; remove one of the rows")
    bare = rows["path"] == rows["recording_id"]
    rows["path"] = rows["path"].mask(bare, rows["path"] + ".mp3")  # early releases leave the extension out
    durations = lines.loc[~of_clip, ["folder", "path", "duration[ms]"]].drop_duplicates(["folder", "path"])
    rows = rows.merge(durations, "left", ["folder", "path"])

    locale = rows["folder"].map({folder: _locale(folder) for folder in folders})
    shared = rows["recording_id"].duplicated(keep=False)
    return pd.DataFrame(
        {
            "recording_id": rows["recording_id"].mask(shared, locale + "/" + rows["recording_id"]),
            "speaker_id": rows["client_id"],
            "locale": rows["locale"].fillna(locale),
            "gender": rows["gender"].map(GENDERS),
            "age": rows["age"],
            "accent": rows["accents"].fillna(rows["accent"]),
            "up_votes": rows["up_votes"],
            "down_votes": rows["down_votes"],
            "split": (rows["number"] // SPLIT_LINES).map(dict(enumerate(splits))),
            "location": rows["folder"] + "/clips/" + rows["path"],
            "duration_s": rows["duration[ms]"] / 1000,
        }
    )
