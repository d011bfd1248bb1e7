"""Zip archives in one file or in parts: what is read, how little of it, and which part is to blame."""

import functools
import zipfile
from pathlib import Path
from typing import Any

import pytest

from speakerprint.corpora.sources import zips
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.corpora.sources.zips import JoinedFile, first_part, read_zip, zip_names
from speakerprint.errors import InputError

MEMBERS = {f"dev/aac/id0001{i}/v/{i:05d}.m4a": bytes((i * 7 + k) % 251 for k in range(3000)) for i in range(9)}


def write_zip(path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.mkdir("dev")
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
    return path


def write_parts(folder: Path, size: int = 8000, compression: int = zipfile.ZIP_STORED, extension: str = "") -> list[Path]:
    """What `split -b 8000 whole.zip vox2_dev_aac_part` makes."""
    whole = write_zip(folder / "whole", compression).read_bytes()
    (folder / "whole").unlink()
    paths = []
    for number, start in enumerate(range(0, len(whole), size)):
        paths.append(folder / f"vox2_dev_aac_parta{'abcdefgh'[number]}{extension if number == 0 else ''}")
        paths[-1].write_bytes(whole[start : start + size])
    return paths


def test_joined_files_read_as_their_concatenation(tmp_path: Path) -> None:
    paths = []
    for name, size in (("a", 5), ("b", 0), ("c", 1), ("d", 7)):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(bytes(name, "ascii") * size)
    whole = b"aaaaacddddddd"
    with JoinedFile(paths) as joined:
        assert joined.read() == whole
        for start in range(len(whole) + 2):
            for n in range(len(whole) + 1):
                joined.seek(start)
                got = b""
                while piece := joined.read(n - len(got)):  # a raw file may give less than asked for
                    got += piece
                assert (got, joined.tell()) == (whole[start : start + n], max(start, min(start + n, max(start, len(whole)))))
        assert (joined.seek(-3, 2), joined.seek(1, 1), joined.read(9)) == (10, 11, b"dd")
        with pytest.raises(OSError, match="no byte -1"):
            joined.seek(-1)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("extension", ["", ".zip"])
@pytest.mark.parametrize("size", [4000, 8000, 10**6])
def test_parts_are_read_as_the_zip_they_were_split_from(tmp_path, compression, extension, size) -> None:
    first = write_parts(tmp_path, size, compression, extension)[0]
    known_as = first_part(first)
    assert known_as == tmp_path / "vox2_dev_aac_partaa"
    assert zip_names(known_as) == list(MEMBERS)
    wanted = list(MEMBERS)[3:6]
    locations = [f"{known_as}/{name}" for name in reversed(wanted)] + [f"{known_as}/dev/aac/id00099/v/1.m4a"]
    assert dict(read_clips(locations)) == {2: MEMBERS[wanted[0]], 1: MEMBERS[wanted[1]], 0: MEMBERS[wanted[2]], 3: None}


def test_a_zip_in_one_file_is_read_in_its_own_order(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "vox2_test_aac.zip", zipfile.ZIP_DEFLATED)
    names = list(MEMBERS)
    assert list(read_clips([f"{archive}/{names[5]}", f"{archive}/{names[1]}"])) == [
        (1, MEMBERS[names[1]]),
        (0, MEMBERS[names[5]]),
    ]


def test_only_the_wanted_members_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_parts(tmp_path)
    n_read = 0

    class Counting(JoinedFile):
        def readinto(self, buffer: Any) -> int:
            nonlocal n_read
            n = super().readinto(buffer)
            n_read += n
            return n

    monkeypatch.setattr(zips, "JoinedFile", Counting)
    monkeypatch.setattr(zips, "BUFFER_BYTES", 512)
    wanted = list(MEMBERS)[4]
    assert list(read_zip(paths[0], wanted.__eq__)) == [(wanted, MEMBERS[wanted])]
    directory = 2 * 10 * (46 + len(wanted))  # read twice: once to find its end, with what a buffer reads ahead
    assert n_read < 3000 + directory + 5 * 512 < sum(path.stat().st_size for path in paths) / 2


@pytest.mark.parametrize(("gone", "named"), [(0, "partaa"), (1, "partab"), (2, "partac")])
def test_a_missing_part_is_named(tmp_path: Path, gone: int, named: str) -> None:
    paths = write_parts(tmp_path)
    assert len(paths) == 4
    paths[gone].unlink()
    with pytest.raises(InputError, match=rf"has no vox2_dev_aac_{named}; download what is missing"):
        zip_names(paths[0])


def test_missing_last_parts_show_in_the_missing_directory(tmp_path: Path) -> None:
    paths = write_parts(tmp_path)
    paths[3].unlink()
    with pytest.raises(InputError, match=r"parts after vox2_dev_aac_partac are missing, or one is cut off"):
        zip_names(paths[0])


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_cut_off_part_is_named_with_its_size(tmp_path: Path, cut: int) -> None:
    paths = write_parts(tmp_path)
    paths[cut].write_bytes(paths[cut].read_bytes()[:-10])
    with pytest.raises(InputError, match=rf"vox2_dev_aac_parta{'abc'[cut]} has 7,990 bytes of 8,000.*; download it again"):
        zip_names(paths[0])


def test_a_cut_off_last_part_is_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-1])
    with pytest.raises(InputError, match=r"vox2_dev_aac_partaa cannot be read to its end .* or one is cut off"):
        zip_names(paths[0])


def test_a_first_part_that_is_cut_off_but_larger_than_the_last_is_noticed(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, 25_000)
    assert len(paths) == 2
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    with pytest.raises(InputError, match=r"bytes are missing before its directory"):
        zip_names(paths[0])


def test_a_changed_byte_condemns_the_part_it_is_in(tmp_path: Path) -> None:
    paths = write_parts(tmp_path)
    data = bytearray(paths[1].read_bytes())
    data[4000] ^= 0xFF
    paths[1].write_bytes(data)
    with pytest.raises(InputError, match=r"vox2_dev_aac_partab: member 'dev/aac/id\d+/v/\d+\.m4a' is damaged .*download"):
        list(read_zip(paths[0], lambda name: True))


@pytest.mark.parametrize("content", [b"", b"<html>please log in</html>", None])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes | None) -> None:
    archive = tmp_path / "vox2_test_aac.zip"
    if content is not None:
        archive.write_bytes(content)
    with pytest.raises(InputError, match=r"vox2_test_aac\.zip (does not exist|cannot be read to its end .* no zip file)"):
        zip_names(archive)


def test_parts_in_a_folder_that_is_gone_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no vox2_dev_aac_partaa"):
        list(read_clips([f"{tmp_path}/gone/vox2_dev_aac_partaa/dev/aac/id1/v/1.m4a"]))


def test_a_zip_that_unpacks_to_hundreds_of_times_its_bytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(70 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    with pytest.raises(InputError, match=r"bomb\.zip: its [\d,]+ bytes unpack to 73,400,320 or more, over 200 times"):
        list(read_zip(tmp_path / "bomb.zip", lambda name: True))
    monkeypatch.setattr(zips, "SMALL_BYTES", 1 << 40)
    with pytest.raises(InputError, match=r"member 'a\.wav' has 73,400,320 bytes, expected at most 1,000"):
        monkeypatch.setattr(zips, "refuse_large", functools.partial(zips.refuse_large, most=1000))
        list(read_zip(tmp_path / "bomb.zip", lambda name: True))
