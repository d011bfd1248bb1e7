import numpy as np
import pytest

from benchmarks.bench_gallery import PER_SPEAKER, build, corpus, measure


@pytest.mark.slow
def test_drawn_voices_are_as_similar_as_said():
    ((_, rows),) = corpus(4000)
    scores = rows @ rows.T
    speaker = np.arange(len(rows)) // PER_SPEAKER
    same = speaker[:, None] == speaker
    assert scores[same & ~np.eye(len(rows), dtype=bool)].mean() == pytest.approx(0.6, abs=0.01)
    assert scores[~same].std() == pytest.approx(0.12, abs=0.01)


@pytest.mark.slow
def test_a_gallery_without_an_index_finds_what_exact_search_finds(tmp_path):
    build(tmp_path, 800)
    facts, table = measure(tmp_path, 800, 20)
    assert facts["sqlite, MB"] == 1
    assert (table.loc[["search", "identify"], ["as exact, enrolled", "as exact, strangers"]] == 1).all(axis=None)
