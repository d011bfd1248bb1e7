"""The counts behind the table of what "cannot tell" costs and saves."""

import numpy as np
import pandas as pd
import pytest

from experiments.unfit_recordings import clipped, passing, reverberant, two_voices


def test_pairs_are_counted_by_kind_and_by_whether_they_are_doubted():
    ann, bob = np.array([1.0, 0.0]), np.array([0.8, 0.6])
    doubted = [False, False, True]
    rows = pd.DataFrame({"speaker": list("aab"), "guest": "", "doubted": doubted, "embedding": [ann, ann, bob]})
    np.testing.assert_array_equal(passing(rows, 0.7), [[2, 2, 0], [1, 1, 1]])
    np.testing.assert_array_equal(passing(rows, 0.9), [[2, 0, 0], [1, 1, 1]])


def test_strangers_have_neither_voice_in_common():
    rows = pd.DataFrame({"speaker": list("abcd"), "guest": list("bcax"), "doubted": False, "embedding": [np.ones(1)] * 4})
    np.testing.assert_array_equal(passing(rows, 0.7)[0], [3, 3, 3])  # each of the first three and the last


def test_damage_does_what_it_says():
    random = np.random.default_rng(1)
    samples = random.normal(size=16_000).astype(np.float32)
    assert np.mean(np.abs(clipped(samples, random, 0.1)) > 0.899) == pytest.approx(0.1, abs=0.001)
    click = np.zeros(16_000, np.float32)
    click[0] = 0.1
    heard = reverberant(click, random, direct_db=0, decay_s=0.5)
    assert np.sum(heard[1:] ** 2) / heard[0] ** 2 == pytest.approx(1, abs=0.01)
    one, other = np.arange(6, dtype=np.float32), np.arange(10, 14, dtype=np.float32)
    np.testing.assert_array_equal(two_voices(one, other), [0, 1, 2, 12, 13])
