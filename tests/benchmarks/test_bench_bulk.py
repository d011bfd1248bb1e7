"""The bulk run's measurement embeds as many recordings as it says."""

import numpy as np
import pytest

from benchmarks.bench_bulk import embed, make_recordings


def test_the_recordings_are_so_many_whole_files(tmp_path):
    make_recordings(tmp_path, 1010)
    assert len({path.stat().st_ino for path in tmp_path.rglob("*.wav")}) == 4 and len(list(tmp_path.rglob("*.wav"))) == 1010


@pytest.mark.slow
def test_what_a_run_took_is_of_the_command(tmp_path):
    held = np.ones(2**28, np.uint8)  # by whoever measures: no part of it
    found, took = embed(6)
    assert found == 6 and 0.2 < took.cpu_s < 60 and 50 < took.peak_mib < held.nbytes / 2**20
