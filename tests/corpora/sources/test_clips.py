import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Literal

import pytest

from speakerprint.corpora.sources import clips
from speakerprint.corpora.sources.clips import read_archive, read_clips, source_root
from speakerprint.errors import InputError

Mode = Literal["w", "w:gz"]


def write_archive(path: Path, files: dict[str, bytes], mode: Mode = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def noise(seed: int, size: int = 2000) -> bytes:
    """Bytes that gzip cannot make smaller."""
    state, out = seed * 2654435761 % 2**32 or 1, bytearray()
    while len(out) < size:
        state = state * 1664525 % 2**32 + 1013904223 & 0xFFFFFFFF
        out += state.to_bytes(4, "big")[:2]
    return bytes(out[:size])


def test_plain_files_are_read_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"a")
    (tmp_path / "b.mp3").write_bytes(b"b")
    stream = read_clips([str(tmp_path / "a.mp3"), str(tmp_path / "b.mp3")])
    assert next(stream) == (0, b"a")
    (tmp_path / "b.mp3").unlink()
    assert next(stream) == (1, None)


def test_what_is_no_file_is_absent(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"a")
    locations = [tmp_path / "missing.mp3", tmp_path, tmp_path / "a.mp3" / "b.mp3"]
    assert list(read_clips([str(location) for location in locations])) == [(0, None), (1, None), (2, None)]


@pytest.mark.parametrize(
    ("name", "mode"), [("r.tar", "w"), ("r.tar.gz", "w:gz"), ("r.tgz", "w:gz"), ("plain-inside.tar.gz", "w")]
)
def test_clips_of_an_archive_come_in_its_order_and_absent_ones_last(tmp_path: Path, name: str, mode: Mode) -> None:
    archive = write_archive(
        tmp_path / name, {"r/fr/clips/a.mp3": b"a", "./r/fr/clips/b.mp3": b"b", "r/fr/clips/c.mp3": b"c"}, mode
    )
    locations = [f"{archive}/r/fr/clips/{clip}.mp3" for clip in ("c", "missing", "a", "b", "a")]
    assert list(read_clips(locations)) == [(2, b"a"), (4, b"a"), (3, b"b"), (0, b"c"), (1, None)]


def test_several_archives_and_plain_files_give_every_index_once(tmp_path: Path) -> None:
    first = write_archive(tmp_path / "1.tar.gz", {"x.mp3": b"1x", "y.mp3": b"1y"})
    second = write_archive(tmp_path / "2.tar", {"x.mp3": b"2x"}, "w")
    (tmp_path / "z.mp3").write_bytes(b"z")
    locations = [f"{second}/x.mp3", f"{first}/y.mp3", str(tmp_path / "z.mp3"), f"{first}/x.mp3", f"{second}/y.mp3"]
    got = list(read_clips(locations))
    assert len(got) == 5
    assert dict(got) == {0: b"2x", 1: b"1y", 2: b"z", 3: b"1x", 4: None}


def test_a_folder_named_like_an_archive_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "unpacked.tar.gz"
    folder.mkdir()
    (folder / "a.mp3").write_bytes(b"a")
    inner = write_archive(folder / "inner.tar", {"b.mp3": b"b"}, "w")
    assert dict(read_clips([str(folder / "a.mp3"), f"{inner}/b.mp3"])) == {0: b"a", 1: b"b"}


@pytest.mark.slow
def test_an_archive_is_read_front_to_back_in_flat_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_clips, size = 3000, 2000
    archive = write_archive(tmp_path / "r.tar.gz", {f"clips/{i}.mp3": bytes(size) for i in range(n_clips)})

    class ForwardOnly(gzip.GzipFile):
        def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
            assert (offset, whence) == (0, io.SEEK_CUR) or (whence == io.SEEK_SET and offset >= self.tell()), "went back"
            return super().seek(offset, whence)

    opened = []
    monkeypatch.setattr(clips.gzip, "open", lambda file: opened.append(file) or ForwardOnly(fileobj=file))
    stream = read_clips([f"{archive}/clips/{i}.mp3" for i in reversed(range(n_clips))])
    next(stream)
    tracemalloc.start()
    n_read = sum(data is not None for _, data in stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_read == n_clips - 1
    assert len(opened) == 1
    assert peak < 1e6  # bytes; the clips together are 6e6, their headers 3e6


def test_reading_ends_with_the_last_wanted_clip(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "r.tar", {"a.mp3": noise(1), "b.mp3": noise(2)}, "w")
    archive.write_bytes(archive.read_bytes()[:3000])  # header and data of a, header of b
    assert list(read_clips([f"{archive}/a.mp3"])) == [(0, noise(1))]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.2, 1 / 3, 0.5, 0.9])
def test_a_truncated_archive_is_refused(tmp_path: Path, mode: Mode, part: float) -> None:
    archive = write_archive(tmp_path / "r.tar.gz", {f"{i}.mp3": noise(i) for i in range(20)}, mode)
    whole = archive.read_bytes()
    content_size = 20 * 2560 if mode == "w" else len(whole)  # tar pads with zeros, which may well be missing
    archive.write_bytes(whole[: int(part * content_size)])
    with pytest.raises(InputError, match=r"r\.tar\.gz cannot be read to its end .* download it again"):
        list(read_clips([f"{archive}/19.mp3"]))


def test_a_tar_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "r.tar", {"a.mp3": noise(1, 512), "b.mp3": noise(2, 512)}, "w")
    archive.write_bytes(archive.read_bytes()[:1024])
    with pytest.raises(InputError, match="cannot be read to its end"):
        list(read_clips([f"{archive}/b.mp3"]))


@pytest.mark.parametrize(("mode", "position"), [("w", 2560 + 5), ("w:gz", 5000), ("w:gz", -6)])
def test_a_changed_byte_is_noticed(tmp_path: Path, mode: Mode, position: int) -> None:
    """In a header (tar keeps checksums of those), in the compressed data, and in gzip's own checksum."""
    archive = write_archive(tmp_path / "r.tar.gz", {f"{i}.mp3": noise(i) for i in range(5)}, mode)
    data = bytearray(archive.read_bytes())
    data[position] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read to its end"):
        list(read_clips([f"{archive}/missing.mp3"]))


def test_a_web_page_saved_as_an_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "r.tar.gz"
    archive.write_text("<html>please log in</html>" * 100)
    with pytest.raises(InputError, match="not a tar archive"):
        list(read_clips([f"{archive}/a.mp3"]))


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.tar\.gz does not exist"):
        list(read_clips([f"{tmp_path}/gone.tar.gz/a.mp3"]))


@pytest.mark.parametrize(
    ("name", "kind", "fault"),
    [
        ("../evil.mp3", tarfile.REGTYPE, "leads out"),
        ("clips/../../evil.mp3", tarfile.REGTYPE, "leads out"),
        ("/etc/evil.mp3", tarfile.REGTYPE, "leads out"),
        ("../folder", tarfile.DIRTYPE, "leads out"),
        ("clips/link.mp3", tarfile.SYMTYPE, "is a link"),
        ("clips/link.mp3", tarfile.LNKTYPE, "is a link"),
        ("clips/device", tarfile.CHRTYPE, "is neither"),
        ("clips/device", tarfile.BLKTYPE, "is neither"),
        ("clips/pipe", tarfile.FIFOTYPE, "is neither"),
    ],
)
def test_an_unsafe_member_condemns_the_archive(tmp_path: Path, name: str, kind: bytes, fault: str) -> None:
    archive = tmp_path / "r.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(InputError, match=fault) as error:
        list(read_clips([f"{archive}/clips/a.mp3"]))
    assert str(archive) in str(error.value) and repr(name) in str(error.value)


def test_only_wanted_members_are_yielded(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "r.tar", {"fr/train.tsv": b"t", "fr/clips/a.mp3": b"a", "fr/dev.tsv": b"d"}, "w")
    assert list(read_archive(archive, lambda name: name.endswith(".tsv"))) == [("fr/train.tsv", b"t"), ("fr/dev.tsv", b"d")]


def test_a_missing_root_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist .* source\.root"):
        source_root(str(tmp_path / "nowhere"))


# --- bombs ------------------------------------------------------------------------------------------------------------


def zeros_archive(path: Path, n_bytes: int, name: str = "a.wav", kind: bytes = tarfile.REGTYPE) -> Path:
    """A gzipped tar of one member of zeros, written without holding them."""
    member = tarfile.TarInfo(name)
    member.size, member.type = n_bytes, kind
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(member.tobuf())
        for _ in range(n_bytes >> 20):
            stream.write(bytes(1 << 20))
        stream.write(bytes(10240))
    return path


@pytest.mark.parametrize("wanted", ["a.wav", "another.wav"])
def test_an_archive_that_unpacks_to_hundreds_of_times_its_bytes_is_refused_at_once(tmp_path: Path, wanted: str) -> None:
    bomb = zeros_archive(tmp_path / "bomb.tar.gz", 100 << 20)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.tar\.gz: its [\d,]+ bytes unpack to 104,8[\d,]+ or more, over 200 times"):
        list(read_clips([f"{bomb}/{wanted}"]))
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.slow
def test_zeros_after_the_archive_s_end_are_not_read_for_ever(tmp_path: Path) -> None:
    bomb = write_archive(tmp_path / "bomb.tar.gz", {"a.wav": b"a"})
    with gzip.open(bomb, "ab") as stream:
        for _ in range(100):
            stream.write(bytes(1 << 20))
    with pytest.raises(InputError, match=r"unpack to .* over 200 times"):
        list(read_archive(bomb, lambda name: True))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_megabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    bomb = zeros_archive(tmp_path / "bomb.tar.gz", 32 << 20, kind=kind)
    tracemalloc.start()
    with pytest.raises(InputError, match="a header of 33,554,432 bytes"):
        list(read_archive(bomb, lambda name: True))
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_member_larger_than_a_recording_may_be_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_archive(tmp_path / "r.tar", {"a.wav": noise(1), "b.wav": b"b"}, "w")
    with pytest.raises(InputError, match=r"r\.tar: member 'a\.wav' has 2,000 bytes, expected at most 1,999"):
        list(read_archive(archive, lambda name: True, max_member_bytes=1999))
    assert list(read_archive(archive, "b.wav".__eq__, max_member_bytes=1999)) == [("b.wav", b"b")]
