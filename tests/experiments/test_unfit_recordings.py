"""The counts behind the table of what "cannot tell" costs and saves."""

import numpy as np
import pandas as pd
import pytest

from experiments.unfit_recordings import clipped, passing, reverberant


def test_pairs_are_counted_by_kind_and_by_whether_they_are_doubted():
    ann, bob = np.array([1.0, 0.0]), np.array([0.8, 0.6])
    rows = pd.DataFrame({"speaker": list("aab"), "doubted": [False, False, True], "embedding": [ann, ann, bob]})
    np.testing.assert_array_equal(passing(rows, 0.7), [[2, 2, 0], [1, 1, 1]])
    np.testing.assert_array_equal(passing(rows, 0.9), [[2, 0, 0], [1, 1, 1]])


def test_damage_does_what_it_says():
    random = np.random.default_rng(1)
    samples = random.normal(size=16_000).astype(np.float32)
    assert np.mean(np.abs(clipped(samples, random, 0.1)) > 0.899) == pytest.approx(0.1, abs=0.001)
    click = np.zeros(16_000, np.float32)
    click[0] = 0.1
    heard = reverberant(click, random, direct_db=0, decay_s=0.5)
    assert np.sum(heard[1:] ** 2) / heard[0] ** 2 == pytest.approx(1, abs=0.01)
