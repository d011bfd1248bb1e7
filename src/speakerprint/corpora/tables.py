"""Small tables that users write by hand or export: CSV in UTF-8 with a line of column names."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from speakerprint.errors import InputError


class NamedRecording(NamedTuple):
    """A line of a table of recordings: the speaker ('' where the table has none), the path as it is written, and the file."""

    speaker: str
    path: str
    location: str


def read_recording_table(table: Path, speakers: bool = True) -> list[NamedRecording]:
    """Read a CSV with the columns speaker and path, a recording a line; paths are relative to the table's folder.

    Without ``speakers`` the column speaker may be missing; a table without it has the column path and no other, so that a
    misspelt one is found. Raises InputError, with the line and the column, for a missing table, column, value or file, and for
    a table without lines.
    """
    if not table.is_file():
        raise InputError(f"{table}: there is no such file; expected a CSV with the columns speaker,path")
    found = []
    for where, row in read_rows(table):
        if "path" not in row or ("speaker" not in row and (speakers or len(row) > 1)):
            wanted = "speaker,path" if speakers else "speaker,path, or path alone where the speakers are not known"
            raise InputError(f"{table}, line 1: columns {','.join(row)}; expected {wanted}")
        for column in ("speaker", "path"):
            if row.get(column) == "":
                raise InputError(f"{where}, column {column}: nothing; expected a value, or no such line")
        location = table.parent / row["path"]
        if not os.path.isfile(location):  # noqa: PTH113 — also of a name that is too long
            raise InputError(f"{where}, column path: there is no file {location}; paths are relative to the table's folder")
        found.append(NamedRecording(row.get("speaker", ""), row["path"], str(location)))
    if not found:
        raise InputError(f"{table} has no recordings; expected the line speaker,path and then a line for each recording")
    return found


def read_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, {column: value}) for each row of a small table; columns in lower case, blanks around values removed.

    ``where`` names file and line, for messages. Raises InputError if the file is not UTF-8 or a row has not as many values
    as there are columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [column.strip().lower() for column in next(reader, [])]
            for values in reader:
                where = f"{path}, line {reader.line_num}"
                if len(values) not in (0, len(header)):
                    raise InputError(f"{where}: {len(values)} values, but the header has {len(header)} columns; mend the line")
                if values:
                    yield where, {column: value.strip() for column, value in zip(header, values, strict=True)}
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; mend the line") from None
