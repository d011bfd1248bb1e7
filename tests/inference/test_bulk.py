"""Many recordings into one file."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speakerprint.errors import InputError
from speakerprint.inference.bulk import embed_into, part_of


class FakeEmbedder:
    """Embeds a file as its size and a third, and counts; stops, as if it were killed, after so many."""

    model_id, embedding_dim, trim_silence = "a model", 2, False

    def __init__(self, stops_after=1000):
        self.embedded, self.stops_after = [], stops_after

    def embed_each(self, names, on_error=None, on_doubt=None):
        for name in names:
            if len(self.embedded) == self.stops_after:
                raise KeyboardInterrupt
            self.embedded.append(name)
            if Path(name).stem in ("1", "4"):
                on_doubt(name, ("it is clipped",))
            yield name, np.array([Path(name).stat().st_size, 1 / 3], np.float32)


def fake_embedder(stops_after: int = 1000) -> Any:
    return FakeEmbedder(stops_after)


@pytest.fixture
def names(tmp_path):
    paths = [tmp_path / f"{number}.wav" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(number))
    return [str(path) for path in paths]


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.npz"


def stop(output, names, after):
    with pytest.raises(KeyboardInterrupt):
        embed_into(output, names, fake_embedder(stops_after=after))


def test_a_run_goes_on_where_the_one_before_was_stopped(names, output):
    stop(output, names, after=3)
    assert not output.exists()
    embedder = fake_embedder()
    doubtful = {names[1]: ["it is clipped"], names[4]: ["it is clipped"]}
    assert embed_into(output, names, embedder) == (5, 3, {}, doubtful) and embedder.embedded == names[3:]
    found = np.load(output)
    assert found["paths"].tolist() == names
    np.testing.assert_array_equal(found["embeddings"], np.array([[n, 1 / 3] for n in range(5)], np.float32))
    assert not part_of(output).exists()


class SlowEmbedder(FakeEmbedder):
    """Waits in the middle until it is told to go on."""

    def __init__(self):
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def embed_each(self, names, on_error=None, on_doubt=None):
        for name, embedding in super().embed_each(names, on_error, on_doubt):
            yield name, embedding
            self.begun.set()
            assert self.go_on.wait(30)


def test_of_two_runs_into_one_output_the_second_is_refused_and_the_first_is_whole(names, output):
    slow: Any = SlowEmbedder()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(embed_into, output, names, slow)
        try:
            assert slow.begun.wait(30)
            second = fake_embedder()
            with pytest.raises(InputError, match=r"out\.npz is being written by another run; wait for it to end"):
                embed_into(output, names[::-1], second)
            assert second.embedded == []
        finally:
            slow.go_on.set()
        assert first.result().embedded == 5
    assert np.load(output)["paths"].tolist() == names
    assert sorted(path.name for path in output.parent.iterdir()) == sorted([*(Path(name).name for name in names), "out.npz"])
    assert embed_into(output, names[::-1], fake_embedder()).embedded == 5


@pytest.mark.parametrize("torn", [b'{"path": "half a li', b'{"path": "x", "embedding": [1.0, 2.0], "changed": 1}', b"\0\0\0\n"])
def test_what_a_killed_run_left_unfinished_is_cut_off(names, output, torn):
    stop(output, names, after=2)
    with part_of(output).open("ab") as file:
        file.write(torn)
    assert embed_into(output, names, fake_embedder()).resumed == 2
    assert np.load(output)["embeddings"][:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("line", [0, 1, 2])
def test_from_a_damaged_line_on_recordings_are_embedded_anew(names, output, line):
    stop(output, names, after=3)
    lines = part_of(output).read_bytes().splitlines(keepends=True)
    for at in range(len(lines[line]) - 1):
        damaged = lines[line][:at] + bytes([lines[line][at] ^ 1]) + lines[line][at + 1 :]
        part_of(output).write_bytes(b"".join([*lines[:line], damaged, *lines[line + 1 :]]))
        assert embed_into(output, names, fake_embedder()).resumed == max(0, line - 1)
        assert np.load(output)["embeddings"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_recording_that_was_changed_since_is_embedded_anew(names, output):
    stop(output, names, after=3)
    Path(names[1]).write_bytes(bytes(101))
    os.utime(names[1], (1, 1))
    embedder = fake_embedder()
    assert embed_into(output, names, embedder).resumed == 2 and embedder.embedded == [names[1], *names[3:]]
    assert np.load(output)["embeddings"][:, 0].tolist() == [0, 101, 2, 3, 4]


def test_the_rows_are_in_the_order_of_this_run_and_a_name_may_come_twice(names, output):
    stop(output, names, after=2)
    asked = [names[4], names[1], names[4]]
    embed_into(output, asked, fake_embedder())
    assert np.load(output)["paths"].tolist() == asked and np.load(output)["embeddings"][:, 0].tolist() == [4, 1, 4]


def test_paths_are_those_that_numpy_writes(names, output, tmp_path):
    asked = [*names, str(tmp_path / "Zoë \U0001f3a4 longest of them.wav"), os.fsdecode(bytes(tmp_path / "not ") + b"\xff.wav")]
    for path in asked[5:]:
        Path(path).touch()
    embed_into(output, asked, fake_embedder())
    found = np.load(output)["paths"]
    assert found.dtype == np.array(asked).dtype and found.tolist() == asked


def test_another_models_half_is_refused(names, output):
    stop(output, names, after=2)
    other = fake_embedder()
    other.model_id = "another"
    with pytest.raises(InputError, match=r"out\.npz\.part is of an earlier run, with another model"):
        embed_into(output, names, other)


def test_a_stopped_run_costs_nothing_of_the_output_before(names, output):
    embed_into(output, names[:1], fake_embedder())
    stop(output, names, after=2)
    assert np.load(output)["paths"].tolist() == names[:1]


def test_each_line_of_the_half_is_one_recording(names, output):
    stop(output, names, after=2)
    about, *rows = map(json.loads, part_of(output).read_text().splitlines())
    assert about.keys() == {"model_id", "trim_silence", "crc32"} and [row["path"] for row in rows] == names[:2]
