import pytest

from benchmarks.bench_data_path import run


def test_both_ways_are_measured_on_the_same_clips():
    rows = {row["what"]: row for row in run(n_clips=3, rounds=1)}
    assert all(set(row) == {"what", "ours", "reference", "unit", "ratio", "aim", "met"} for row in rows.values())
    dense_bytes = 80 * 3000 * 4
    stored = rows["a clip in the store"]
    assert 0 < stored["ours"] * 1000 < 2 * 500 * 80 * 2  # frames of 5 s in float16, and a little
    assert stored["ours"] < stored["reference"] <= dense_bytes / 1000
    for how in ("", ", resample.encoding=wav"):
        speed = rows[f"MP3 to features in the store{how}"]
        assert speed["ratio"] == pytest.approx(speed["ours"] / speed["reference"], abs=0.01)
        assert rows[f"MP3 to features, decoding alone{how}"]["ours"] == pytest.approx(1000 / speed["ours"], rel=0.01)
