import tarfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from speakerprint.corpora.recordings import SCHEMA
from speakerprint.corpora.sources import espeak, read_source
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.corpora.sources.common_voice import read_common_voice
from speakerprint.errors import InputError
from speakerprint.params.sources import CommonVoiceSource, EspeakSource

VOTES = ["up_votes", "down_votes", "age", "gender"]
COLUMNS_6 = ["client_id", "path", "sentence", *VOTES, "accent", "locale", "segment"]
COLUMNS_17 = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    *VOTES,
    "accents",
    "variant",
    "locale",
    "segment",
]


def tsv(columns: list[str], *rows: Mapping[str, object]) -> str:
    """Lines of a TSV; values a row leaves out are what a release would have there."""
    usual = {"client_id": "anna", "sentence": 'He said "so', "up_votes": 2, "down_votes": 0, "locale": "fr"}
    lines = ["\t".join(columns)]
    lines += ["\t".join(str({**usual, **row}.get(column, "")) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


def write_release(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        (path.parent / "clips").mkdir(exist_ok=True)
    return root


def read(root: Path, splits: list[str], locales: list[str] | None = None) -> pd.DataFrame:
    source = CommonVoiceSource(kind="common_voice", root=str(root), splits=splits, locales=locales)
    return pd.concat(read_common_voice(source), ignore_index=True)


def test_a_row_of_release_17_fills_the_schema(tmp_path: Path) -> None:
    row = {
        "path": "a.mp3",
        "up_votes": 3,
        "down_votes": 1,
        "age": "fifties",
        "gender": "female_feminine",
        "accents": "Français de France",
    }
    write_release(tmp_path / "fr", {"train.tsv": tsv(COLUMNS_17, row), "clip_durations.tsv": "clip\tduration[ms]\na.mp3\t4176\n"})
    recordings = read(tmp_path, ["train"])
    assert list(recordings.columns) == SCHEMA.names
    assert recordings.iloc[0].to_dict() == {
        "recording_id": "a",
        "speaker_id": "anna",
        "locale": "fr",
        "gender": "female",
        "age": "fifties",
        "accent": "Français de France",
        "up_votes": 3,
        "down_votes": 1,
        "split": "train",
        "location": f"{tmp_path}/fr/clips/a.mp3",
        "duration_s": pytest.approx(4.176),
    }


def test_release_6_has_accent_in_the_singular_and_no_durations(tmp_path: Path) -> None:
    write_release(tmp_path / "fr", {"validated.tsv": tsv(COLUMNS_6, {"path": "a.mp3", "accent": "breton"}, {"path": "b.mp3"})})
    recordings = read(tmp_path, ["validated"])
    assert recordings["accent"].fillna("-").tolist() == ["breton", "-"]
    assert recordings["duration_s"].isna().all()


def test_columns_beyond_the_four_required_may_be_absent(tmp_path: Path) -> None:
    write_release(tmp_path / "fr", {"train.tsv": tsv(["path", "down_votes", "up_votes", "client_id"], {"path": "a.mp3"})})
    row = read(tmp_path, ["train"]).iloc[0]
    assert row["locale"] == "fr"  # the folder's name
    assert row[["gender", "age", "accent", "duration_s"]].isna().all()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("male", "male"),
        ("male_masculine", "male"),
        ("female", "female"),
        ("female_feminine", "female"),
        ("other", "other"),
        ("intersex", "other"),
        ("transgender", "other"),
        ("non-binary", "other"),
        ("do_not_wish_to_say", None),
        ("", None),
    ],
)
def test_genders_of_all_releases_are_mapped(tmp_path: Path, written: str, expected: str | None) -> None:
    write_release(tmp_path / "fr", {"train.tsv": tsv(COLUMNS_17, {"path": "a.mp3", "gender": written})})
    assert read(tmp_path, ["train"])["gender"].fillna("-").tolist() == [expected or "-"]


def test_quotes_in_a_sentence_quote_nothing(tmp_path: Path) -> None:
    rows = [{"path": f"{i}.mp3", "sentence": sentence} for i, sentence in enumerate(['"', 'say "no', "'", '"a" b"'])]
    write_release(tmp_path / "fr", {"train.tsv": tsv(COLUMNS_17, *rows)})
    assert read(tmp_path, ["train"])["recording_id"].tolist() == ["0", "1", "2", "3"]


def test_a_clip_in_two_splits_is_taken_once_from_the_split_listed_first(tmp_path: Path) -> None:
    files = {
        "train.tsv": tsv(COLUMNS_17, {"path": "a.mp3"}),
        "validated.tsv": tsv(COLUMNS_17, {"path": "a.mp3"}, {"path": "b.mp3"}),
    }
    write_release(tmp_path / "fr", files)
    assert read(tmp_path, ["validated", "train"])["split"].tolist() == ["validated", "validated"]
    assert read(tmp_path, ["train", "validated"])["split"].tolist() == ["train", "validated"]


def test_a_clip_with_two_speakers_is_an_error(tmp_path: Path) -> None:
    write_release(tmp_path / "fr", {"train.tsv": tsv(COLUMNS_17, {"path": "a.mp3"}, {"path": "a.mp3", "client_id": "ben"})})
    with pytest.raises(InputError, match=r"'a\.mp3' is listed with two client_ids"):
        read(tmp_path, ["train"])


def test_old_paths_without_extension_are_mp3(tmp_path: Path) -> None:
    write_release(tmp_path / "fr", {"train.tsv": tsv(COLUMNS_6, {"path": "0a1b2c"}, {"path": "d.ogg"})})
    recordings = read(tmp_path, ["train"])
    assert recordings["recording_id"].tolist() == ["0a1b2c", "d"]
    assert [Path(location).name for location in recordings["location"]] == ["0a1b2c.mp3", "d.ogg"]


@pytest.mark.parametrize("path", ["../../secret.mp3", "/etc/secret.mp3", "a/../../b.mp3", ".."])
def test_a_path_that_leads_out_of_the_release_is_refused(tmp_path: Path, path: str) -> None:
    write_release(tmp_path / "fr", {"train.tsv": tsv(COLUMNS_17, {"path": "a..b.mp3"}, {"path": path})})
    with pytest.raises(InputError, match=r"fr/train\.tsv: path .* leads out") as error:
        read(tmp_path, ["train"])
    assert repr(path) in str(error.value)


def two_locales(root: Path) -> Path:
    files = {
        "fr/train.tsv": tsv(COLUMNS_17, {"path": "a.mp3"}, {"path": "b.mp3"}),
        "de/train.tsv": tsv(COLUMNS_17, {"path": "b.mp3", "locale": ""}),
    }
    return write_release(root, files)


def test_an_id_shared_by_two_locales_gets_the_locale_in_front_and_a_speaker_stays_one(tmp_path: Path) -> None:
    recordings = read(two_locales(tmp_path), ["train"])
    assert recordings[["recording_id", "locale"]].to_numpy().tolist() == [["a", "fr"], ["de/b", "de"], ["fr/b", "fr"]]
    assert recordings["speaker_id"].unique().tolist() == ["anna"]


@pytest.mark.slow
@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (2, 1), (3, 2)])
def test_a_release_of_many_chunks_gives_what_it_gives_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, block: int
) -> None:
    """With ids that locales share, clips of two splits, one listed twice, and durations of clips that are in no split."""
    clips = [{"path": f"{name}.mp3", "client_id": f"c{ord(name) % 3}", "up_votes": i} for i, name in enumerate("hgfedcba")]
    durations = "".join(f"{name}.mp3\t{1000 + i}\n" for i, name in enumerate("zhbcafyx"))
    for locale, first in [("fr", 0), ("de", 4)]:
        files = {
            "train.tsv": tsv(COLUMNS_17, *clips[first:], clips[-1] | {"up_votes": 99}),
            "dev.tsv": tsv(COLUMNS_17, *(clip | {"up_votes": 50} for clip in clips)),
            "clip_durations.tsv": "clip\tduration[ms]\n" + durations,
        }
        write_release(tmp_path / locale, files)
    in_one = read(tmp_path, ["train", "dev"])
    assert in_one["recording_id"].tolist() == [f"{locale}/{name}" for locale in ("de", "fr") for name in "abcdefgh"]
    assert in_one["up_votes"].tolist() == [7, 6, 5, 4, 50, 50, 50, 50, 7, 6, 5, 4, 3, 2, 1, 0]
    assert (in_one["split"] == "dev").tolist() == [votes == 50 for votes in in_one["up_votes"]]
    assert (in_one["duration_s"].fillna(0) * 1000).round().tolist() == [1004, 1002, 1003, 0, 0, 1005, 0, 1001] * 2
    monkeypatch.setattr("speakerprint.corpora.recordings.CHUNK_ROWS", chunk)
    monkeypatch.setattr("speakerprint.corpora.recordings.BLOCK_ROWS", block)
    pd.testing.assert_frame_equal(read(tmp_path, ["train", "dev"]), in_one)
    assert read(tmp_path / "fr", ["dev"])["recording_id"].tolist() == list("abcdefgh")


def test_locales_select_and_a_missing_one_is_an_error_that_lists_those_there(tmp_path: Path) -> None:
    two_locales(tmp_path)
    assert read(tmp_path, ["train"], ["de"])["recording_id"].tolist() == ["b"]
    with pytest.raises(InputError, match="no locale 'it'; it has de, fr"):
        read(tmp_path, ["train"], ["de", "it"])


def test_release_parent_locale_folder_and_archives_give_the_same_recordings(tmp_path: Path) -> None:
    release = write_release(tmp_path / "data" / "cv-corpus-17.0", {"fr/train.tsv": tsv(COLUMNS_17, {"path": "a.mp3"})})
    (release / "fr" / "clips" / "a.mp3").write_bytes(b"a")
    write_release(release, {".checkpoints/train.tsv": "hidden", "fr/.train.tsv": "hidden"})
    (tmp_path / "archives").mkdir()
    with tarfile.open(tmp_path / "archives" / "cv-corpus-17.0-fr.tar.gz", "w:gz") as tar:
        tar.add(release, "cv-corpus-17.0")
    with tarfile.open(tmp_path / "fr.tar", "w") as tar:
        tar.add(release / "fr", ".")
    roots = {
        release: release / "fr",
        release.parent: release / "fr",
        release / "fr": release / "fr",
        tmp_path / "archives": tmp_path / "archives" / "cv-corpus-17.0-fr.tar.gz" / "cv-corpus-17.0" / "fr",
        tmp_path / "archives" / "cv-corpus-17.0-fr.tar.gz": tmp_path / "archives/cv-corpus-17.0-fr.tar.gz/cv-corpus-17.0/fr",
        tmp_path / "fr.tar": tmp_path / "fr.tar",
    }
    expected = read(release, ["train"]).drop(columns="location")
    for root, folder in roots.items():
        recordings = read(root, ["train"])
        pd.testing.assert_frame_equal(recordings.drop(columns="location"), expected)
        assert recordings["location"].tolist() == [f"{folder}/clips/a.mp3"]
        assert list(read_clips(recordings["location"])) == [(0, b"a")]


def test_a_folder_of_archives_holds_one_locale_each(tmp_path: Path) -> None:
    two_locales(tmp_path / "release")
    (tmp_path / "archives").mkdir()
    for locale in ("fr", "de"):
        with tarfile.open(tmp_path / "archives" / f"{locale}.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "release" / locale, f"cv-corpus-17.0/{locale}")
    assert read(tmp_path / "archives", ["train"])["recording_id"].tolist() == ["a", "de/b", "fr/b"]
    with pytest.raises(InputError, match=r"has no dev\.tsv; it has train"):
        read(tmp_path / "archives", ["dev"])


def test_the_same_locale_twice_is_an_error(tmp_path: Path) -> None:
    two_locales(tmp_path / "release")
    (tmp_path / "archives").mkdir()
    for name in ("fr.tar", "fr (1).tar"):
        with tarfile.open(tmp_path / "archives" / name, "w") as tar:
            tar.add(tmp_path / "release" / "fr", "cv-corpus-17.0/fr")
    with pytest.raises(InputError, match=r"'fr' twice: .*fr \(1\)\.tar.*fr\.tar"):
        read(tmp_path / "archives", ["train"])


def test_two_releases_side_by_side_are_not_mixed(tmp_path: Path) -> None:
    two_locales(tmp_path / "cv-corpus-16.0")
    two_locales(tmp_path / "cv-corpus-17.0")
    with pytest.raises(InputError, match=r"more than one release \(cv-corpus-16\.0, cv-corpus-17\.0\)"):
        read(tmp_path, ["train"])


def test_an_archive_beside_what_was_unpacked_from_it_is_not_read_twice(tmp_path: Path) -> None:
    two_locales(tmp_path / "cv-corpus-17.0")
    with tarfile.open(tmp_path / "17.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "cv-corpus-17.0", "cv-corpus-17.0")
    with pytest.raises(InputError, match=r"more than one release \(cv-corpus-17\.0, 17\.tar\.gz\)"):
        read(tmp_path, ["train"])


@pytest.mark.parametrize("name", ["empty", "notes.txt", "photos.tar"])
def test_what_is_no_release_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(InputError, match=name):
        read(tmp_path / name, ["train"])


def test_a_missing_split_is_an_error_that_lists_those_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fr has no tarin\.tsv; it has train"):
        read(two_locales(tmp_path), ["tarin"], ["fr"])


def test_an_empty_split_is_no_rows_but_all_empty_is_an_error(tmp_path: Path) -> None:
    write_release(tmp_path / "fr", {"train.tsv": tsv(COLUMNS_17, {"path": "a.mp3"}), "dev.tsv": tsv(COLUMNS_17)})
    write_release(tmp_path / "fr", {"clip_durations.tsv": "clip\tduration[ms]\n"})
    assert len(read(tmp_path, ["train", "dev"])) == 1
    with pytest.raises(InputError, match="no recording in dev"):
        read(tmp_path, ["dev"])


@pytest.mark.parametrize("column", ["client_id", "path", "up_votes", "down_votes"])
def test_a_missing_column_is_named_with_those_found(tmp_path: Path, column: str) -> None:
    columns = [name for name in COLUMNS_17 if name != column]
    write_release(tmp_path / "fr", {"train.tsv": tsv(columns, {"path": "a.mp3"})})
    with pytest.raises(InputError, match=rf"fr/train\.tsv: no column '{column}'; found .*sentence"):
        read(tmp_path, ["train"])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"anna\tb.mp3\t2", "line 3: 3 columns, expected 4"),
        (b"anna\tb.mp3\t2\t0\tx", "line 3: 5 columns, expected 4"),
        (b"anna\tb.mp3\ttwo\t0", "line 3, column up_votes: expected a whole number, found 'two'"),
        (b"anna\tb.mp3\t2\t0.5", "line 3, column down_votes: expected a whole number, found '0.5'"),
        (b"anna\tb.mp3\t2\t", "line 3, column down_votes: expected a whole number, found ''"),
        (b"\tb.mp3\t2\t0", "line 3, column client_id: empty"),
        (b"anna\t\t2\t0", "line 3, column path: empty"),
        (b"anna\tb\xff.mp3\t2\t0", "line 3: byte 7 is not UTF-8"),
        (b"anna\tb.mp3\t2\t99999999999", "99999999999"),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_column(tmp_path: Path, line: bytes, fault: str) -> None:
    write_release(tmp_path / "fr", {"train.tsv": ""})
    (tmp_path / "fr" / "train.tsv").write_bytes(b"client_id\tpath\tup_votes\tdown_votes\nanna\ta.mp3\t2\t0\n" + line + b"\n")
    with pytest.raises(InputError) as error:
        read(tmp_path, ["train"])
    assert "fr/train.tsv, " in str(error.value) and fault in str(error.value) and "again" in str(error.value)


def test_bytes_that_are_not_utf8_are_refused_in_columns_nobody_reads_too(tmp_path: Path) -> None:
    write_release(tmp_path / "fr", {"train.tsv": tsv(COLUMNS_17, {"path": "a.mp3"}, {"path": "b.mp3", "sentence": "?"})})
    file = tmp_path / "fr" / "train.tsv"
    file.write_bytes(file.read_bytes().replace(b"\t?\t", b"\t\xe9\t"))
    with pytest.raises(InputError, match=r"train\.tsv, line 3: byte \d+ is not UTF-8"):
        read(tmp_path, ["train"])


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    text = "\ufeff" + tsv(COLUMNS_17, {"path": "a.mp3", "gender": "male"}).replace("\n", "\r\n")
    write_release(tmp_path / "fr", {"train.tsv": ""})
    (tmp_path / "fr" / "train.tsv").write_bytes(text.encode())
    assert read(tmp_path, ["train"])[["speaker_id", "gender"]].to_numpy().tolist() == [["anna", "male"]]


def test_the_synthetic_release_is_read_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(source: EspeakSource, archive: Path) -> None:
        write_release(tmp_path / "made", {"en/dev.tsv": tsv(COLUMNS_17, {"path": "a.mp3", "locale": "en"})})
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(tmp_path / "made" / "en", "cv-corpus-demo/en")

    monkeypatch.setattr(espeak, "write_release", write)
    source = EspeakSource(kind="espeak", splits=["dev"], speakers=1, recordings_per_speaker=1, seed=1)
    recordings = read_source(source, tmp_path)
    assert recordings["location"].tolist() == [f"{tmp_path}/cv-corpus-demo.tar.gz/cv-corpus-demo/en/clips/a.mp3"]
