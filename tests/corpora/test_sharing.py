"""Corpora of one archive read it once for their lists and once for their clips; the last one leaves nothing behind."""

import io
import os
import tarfile
import threading
import time

import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile

from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.resampling import resample_corpus
from speakerprint.corpora.sharing import SharedFolder
from speakerprint.corpora.sources import clips, common_voice, source_chunks
from speakerprint.corpora.spool import Spool
from speakerprint.errors import InputError
from speakerprint.params.resample import Resample
from speakerprint.params.sources import CommonVoiceSource

SETTINGS = Resample(engine="soxr", encoding="wav", min_duration_s=0.1, max_bad_fraction=0.5)
SPLITS = ("train", "dev", "test")


@pytest.fixture(autouse=True)
def in_this_process():
    with joblib.parallel_config("threading"):  # processes take seconds to start
        yield


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def archive(tmp_path):
    """A release with a split for each of three corpora, two clips each, the second of dev absent."""
    path = tmp_path / "release.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number, split in enumerate(SPLITS):
            lines = [f"{split}-speaker\t{split}{clip}.wav\t2\t0" for clip in range(2)]
            add(tar, f"cv-corpus/en/{split}.tsv", "\n".join(["client_id\tpath\tup_votes\tdown_votes", *lines, ""]).encode())
            for clip in range(1 if split == "dev" else 2):
                audio = io.BytesIO()
                soundfile.write(audio, np.full(4800 + 1600 * clip, 0.1 * (number + 1)), 16_000, format="WAV")
                add(tar, f"cv-corpus/en/clips/{split}{clip}.wav", audio.getvalue())
    return path


@pytest.fixture
def reads(monkeypatch):
    """Every archive that is opened, in order."""
    opened = []
    real = clips.read_archive

    def counted(archive, *arguments):
        opened.append(archive.name)
        return real(archive, *arguments)

    monkeypatch.setattr(clips, "read_archive", counted)
    monkeypatch.setattr(common_voice, "read_archive", counted)
    return opened


def source(archive, *splits):
    return CommonVoiceSource(kind="common_voice", root=str(archive), splits=list(splits))


def downloaded(tmp_path, archive, split, later):
    waiting = {name: source(archive, name) for name in later}
    with SharedFolder(tmp_path / "lists", split, waiting).at_work() as shared:
        return pd.concat(source_chunks(source(archive, split), tmp_path, shared, waiting.values()))


def resampled(tmp_path, selections, split, later):
    waiting = {name: [selections[name]] for name in later}
    with SharedFolder(tmp_path / "clips", split, waiting).at_work() as shared:
        return resample_corpus(selections[split], tmp_path / f"audio/{split}", SETTINGS, spool=Spool(shared, waiting))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_three_corpora_of_an_archive_read_it_once_for_lists_and_once_for_clips(tmp_path, archive, reads):
    selections = {split: downloaded(tmp_path, archive, split, SPLITS[number + 1 :]) for number, split in enumerate(SPLITS)}
    assert reads == ["release.tar.gz"]
    assert not (tmp_path / "lists").exists()
    for split in SPLITS:
        pd.testing.assert_frame_equal(selections[split], pd.concat(source_chunks(source(archive, split), tmp_path)))
    reads.clear()

    reports = [resampled(tmp_path, selections, split, SPLITS[number + 1 :]) for number, split in enumerate(SPLITS)]
    assert reads == ["release.tar.gz"]
    assert not (tmp_path / "clips").exists()
    assert [report["recordings"] for report in reports] == [2, 1, 2]
    for split in SPLITS:
        resample_corpus(selections[split], tmp_path / f"alone/{split}", SETTINGS)
        assert files(tmp_path / f"audio/{split}") == files(tmp_path / f"alone/{split}")


def test_a_corpus_alone_copies_no_lists_and_asks_for_its_own_clips_only(tmp_path, archive, reads):
    with SharedFolder(tmp_path / "lists", "train").at_work() as shared:
        recordings = pd.concat(source_chunks(source(archive, "train"), tmp_path, shared))
        assert [path.name for path in shared.path.iterdir()] == ["done"]
    with SharedFolder(tmp_path / "clips", "train").at_work() as shared:
        spool = Spool(shared)
        _, spans = spool.unpack([recordings])
        assert spool.path.stat().st_size == spans[:, 1].sum()
    assert len(reads) == 2


def test_what_a_later_corpus_wants_beyond_what_was_foreseen_is_read(tmp_path, archive, reads):
    downloaded(tmp_path, archive, "train", ["dev"])
    both = pd.concat(source_chunks(source(archive, "dev", "test"), tmp_path, SharedFolder(tmp_path / "lists", "dev")))
    assert both["split"].value_counts().to_dict() == {"dev": 2, "test": 2}
    assert len(reads) == 2


def test_an_archive_that_was_replaced_is_read_again(tmp_path, archive, reads):
    selections = {split: pd.concat(source_chunks(source(archive, split), tmp_path)) for split in SPLITS}
    reads.clear()
    resampled(tmp_path, selections, "train", ["dev"])
    os.utime(archive, ns=(0, 0))
    resampled(tmp_path, selections, "dev", [])
    assert len(reads) == 2


def test_a_folder_stays_while_one_is_still_to_come_or_failed(tmp_path):
    with SharedFolder(tmp_path / "shared", "a", ["b", "c"]).at_work():
        pass
    with pytest.raises(InputError), SharedFolder(tmp_path / "shared", "b", ["c"]).at_work():
        raise InputError("bad clips")
    with SharedFolder(tmp_path / "shared", "c", ["b"]).at_work():
        pass
    assert (tmp_path / "shared").exists()
    with SharedFolder(tmp_path / "shared", "b").at_work():
        pass
    assert not (tmp_path / "shared").exists()


def test_a_folder_stays_while_another_is_at_work_that_was_not_foreseen(tmp_path):
    """As of stages that are run by hand, several at once; of what a killed one holds, nothing is left."""
    (tmp_path / "shared.killed.lock").touch()
    with SharedFolder(tmp_path / "shared", "a").at_work() as shared:
        (shared.path / "clips").write_bytes(b"clips")
        with SharedFolder(tmp_path / "shared", "b").at_work():
            pass
        assert (shared.path / "clips").read_bytes() == b"clips"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared.killed.lock", "shared.lock"]


def test_corpora_at_work_at_the_same_time_wait_instead_of_reading_twice(tmp_path, archive, reads, monkeypatch):
    selections = {split: pd.concat(source_chunks(source(archive, split), tmp_path)) for split in SPLITS}
    reads.clear()
    spans = {}

    def at_work(split):
        others = [name for name in SPLITS if name != split]
        with SharedFolder(tmp_path / "clips", split, others).at_work() as shared:
            spool = Spool(shared, {name: [selections[name]] for name in others})
            spans[split] = spool.unpack([selections[split]])[1]
            time.sleep(0.2)
            clip = spool.path.read_bytes()[spans[split][0, 0] :][: spans[split][0, 1]]
            assert soundfile.info(io.BytesIO(clip)).duration == pytest.approx(0.3)

    threads = [threading.Thread(target=at_work, args=[split]) for split in SPLITS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(spans) == set(SPLITS)
    assert reads == ["release.tar.gz"]
    assert not (tmp_path / "clips").exists()


def test_a_plain_file_needs_no_spool(tmp_path):
    rows = pd.DataFrame({"recording_id": ["a"], "speaker_id": ["s"], "location": [str(tmp_path / "a.wav")]})
    keys, spans = Spool(SharedFolder(tmp_path / "clips")).unpack([as_recordings(rows, "test")])
    assert keys.tolist() == [b""] and spans.tolist() == [[-1, -1]]
