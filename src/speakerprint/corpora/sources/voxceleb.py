"""VoxCeleb 1 (``wav``) and 2 (``m4a``), unpacked or as downloaded.

Unpacked, a recording is ``root/[dev/|test/][wav/|aac/]id00012/21Uxsk56VDQ/00001.m4a``. As downloaded, the same path lies in an
archive in the root, or in vox1/ or vox2/ below it, as the copy on the Hugging Face hub (ProgramComputer/voxceleb) has them:
``vox2_test_aac.zip``, or the parts ``vox2_dev_aac_partaa`` to ``…ah`` of one. Archives of video are passed over. The speakers of
the two versions have different ids, so a root may hold both.
"""

import re
from pathlib import Path

import pandas as pd

from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.sources.clips import source_root
from speakerprint.corpora.sources.folder import parse_gender, refuse_twins, speaker_files
from speakerprint.corpora.sources.zips import first_part, zip_names
from speakerprint.corpora.tables import read_rows
from speakerprint.errors import InputError
from speakerprint.params.sources import VoxCelebSource

AUDIO_FOLDERS = tuple(f"{split}{audio}" for split in ("", "dev/", "test/") for audio in ("", "wav", "aac"))
ARCHIVE_FOLDERS = ("", "vox1", "vox2")
ARCHIVE = re.compile(r"vox[12]_(?:(dev|test)_)?(?:wav|aac)(?:\.zip|_part[a-z]{2}(?:\.zip)?)")
MEMBER = re.compile(r"(?:(dev|test)/)?(?:(?:wav|aac)/)?((id[0-9]+)/[^/]+/[^/]+)\.(?:wav|m4a)")
META = ("vox1_meta.csv", "vox2_meta.csv")
SPEAKER_FOLDERS = "id[0-9]*"


def read_voxceleb(source: VoxCelebSource) -> pd.DataFrame:
    """The recordings below ``source.root``, in the schema of `recordings`, with ids such as ``id00012/21Uxsk56VDQ/00001``.

    Gender, nationality (as accent) and split come from vox1_meta.csv and vox2_meta.csv where they lie in the root, in vox1/ or
    vox2/ below it, or in one of the two folders above it; where the recordings lie in dev/ or test/, or in an archive called so,
    that is their split.

    Raises InputError if there is no recording, a recording is there twice, an archive or a part of one is missing or damaged, or
    a meta file is malformed.
    """
    root = source_root(source.root)
    parts = []
    for name in AUDIO_FOLDERS:
        files = speaker_files(root / name, SPEAKER_FOLDERS)
        parts.append(files.assign(split=name.split("/")[0] if "/" in name else None))
    parts += [_archived(archive) for archive in _archives(root)]
    rows = pd.concat(parts, ignore_index=True).astype({"split": "str"})
    if rows.empty:
        raise InputError(
            f"{root} has no VoxCeleb recordings; expected id10001/<video>/*.wav or id00012/<video>/*.m4a in it or in one of "
            f"{', '.join(filter(None, AUDIO_FOLDERS))}, or archives such as vox1_test_wav.zip or vox2_dev_aac_partaa; set "
            "source.root to where they are"
        )
    refuse_twins(rows)
    meta = rows[["speaker_id"]].merge(_read_meta(root), on="speaker_id", how="left", validate="many_to_one")
    rows = rows.assign(gender=meta["gender"], accent=meta["accent"], split=rows["split"].fillna(meta["split"]))
    return as_recordings(rows, str(root))


def _archives(root: Path) -> list[Path]:
    """Archives of audio, each once, by the name of its first part."""
    folders = [folder for name in ARCHIVE_FOLDERS if (folder := root / name).is_dir()]
    return sorted({first_part(path) for folder in folders for path in folder.iterdir() if ARCHIVE.fullmatch(path.name)})


def _archived(archive: Path) -> pd.DataFrame:
    """recording_id, speaker_id, location and split of all audio in an archive."""
    split = re.search(r"_(dev|test)_", archive.name)
    rows = [
        (match[2], match[3], f"{archive.as_posix()}/{name}", match[1] or (split and split[1]))
        for name in zip_names(archive)
        if (match := MEMBER.fullmatch(name))
    ]
    return pd.DataFrame(rows, columns=["recording_id", "speaker_id", "location", "split"], dtype="str")


def _read_meta(root: Path) -> pd.DataFrame:
    """What the meta files know: speaker_id, gender, accent, split; one row for each speaker."""
    speakers: dict[str, tuple[str, str | None, str | None, str | None]] = {}
    for name in META:
        folders = (*(root / below for below in ARCHIVE_FOLDERS), *root.resolve().parents[:2])
        path = next((path for folder in folders if (path := folder / name).is_file()), None)
        if path is None:
            continue
        delimiter = "\t" if b"\t" in path.read_bytes().split(b"\n", 1)[0] else ","
        for where, row in read_rows(path, delimiter):
            ids = [row[column] for column in ("voxceleb1 id", "voxceleb2 id", "id") if column in row]
            if not ids or "gender" not in row:
                raise InputError(
                    f"{path}: columns {', '.join(row)}; expected the speaker's id and Gender, as VoxCeleb publishes it"
                )
            gender = parse_gender(row["gender"], where)
            speakers[ids[0]] = (ids[0], gender, row.get("nationality") or None, row.get("set") or None)
    return pd.DataFrame(list(speakers.values()), columns=["speaker_id", "gender", "accent", "split"], dtype="str")
