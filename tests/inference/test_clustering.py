"""Recordings of unknown speakers, put together by speaker."""

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, silhouette_score

from speakerprint.errors import InputError
from speakerprint.inference.clustering import MAX_RECORDINGS, cluster, silhouette, threshold_range


def voices(sizes, noise=0.3, offset=0.0, seed=0):
    """Embeddings (n, 16) and speakers (n,) in mixed order; `offset` is added to all, which raises all cosines."""
    rng = np.random.default_rng(seed)
    speakers = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return np.eye(16)[speakers] + rng.normal(scale=noise / 4, size=(len(speakers), 16)) + offset, speakers


def test_speakers_that_are_well_apart_are_found_exactly_the_largest_first():
    embeddings, speakers = voices([5, 9, 1, 7])
    labels = cluster(embeddings, 0.5)
    np.testing.assert_array_equal(labels, np.array([2, 0, 3, 1])[speakers])
    np.testing.assert_array_equal(cluster(embeddings, (0.3, 0.8)), labels)
    np.testing.assert_array_equal(cluster(embeddings, n_speakers=4), labels)


def test_of_clusters_of_one_size_the_first_recordings_comes_first():
    assert cluster([[0, 1], [1, 0], [0, 1], [1, 0]], 0.5).tolist() == [0, 1, 0, 1]


def test_clusters_merge_while_their_mean_cosine_reaches_the_threshold():
    def direction(degrees):
        return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]

    recordings = [direction(0), direction(30), direction(90)]  # the first two, then with the third: (0 + 0.5) / 2
    assert cluster(recordings, 0.26).tolist() == [0, 0, 1]
    assert cluster(recordings, 0.24).tolist() == [0, 0, 0]
    assert cluster(recordings, 0.9).tolist() == [0, 1, 2]
    assert cluster([[1, 0, 0, 0], [1, 1, 1, 1]], 0.5).tolist() == [0, 0]  # their cosine is 0.5, exactly


def test_it_is_scikit_learns_average_linkage():
    embeddings = np.random.default_rng(1).normal(size=(300, 5))
    for threshold in (0.0, 0.4, 0.8):
        model = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=1 - threshold)
        assert adjusted_rand_score(model.fit_predict(embeddings), cluster(embeddings, threshold)) == 1


def test_the_order_of_the_recordings_does_not_matter():
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(200, 5))
    order = rng.permutation(200)
    for threshold in (0.5, (0.2, 0.9)):
        assert adjusted_rand_score(cluster(embeddings[order], threshold), cluster(embeddings, threshold)[order]) == 1


def test_one_recording_is_one_cluster_and_identical_ones_are_another():
    assert cluster([[3.0, 4.0]], 0.5).tolist() == [0]
    assert cluster([[3.0, 4.0]], n_speakers=1).tolist() == [0]
    assert cluster(np.tile([0.1, 0.7, 0.2], (20, 1)), 0.999).tolist() == [0] * 20
    assert cluster(np.tile([0.1, 0.7, 0.2], (20, 1)), (0.3, 0.999)).tolist() == [0] * 20


@pytest.mark.parametrize("n_speakers", [1, 3, 20])
def test_as_many_speakers_as_asked_for_even_among_equal_recordings(n_speakers):
    embeddings = np.repeat([[0.0, 1.0], [1.0, 0.0]], 10, axis=0)
    assert len(set(cluster(embeddings, n_speakers=n_speakers).tolist())) == n_speakers


def test_a_range_finds_the_threshold_of_recordings_that_all_score_higher():
    embeddings, speakers = voices([8, 7, 6], offset=0.3)
    assert len(set(cluster(embeddings, 0.3).tolist())) == 1
    assert len(set(cluster(embeddings, 0.99).tolist())) > 3
    labels = cluster(embeddings, (0.3, 0.99))
    np.testing.assert_array_equal(labels, speakers)
    tried = [silhouette(embeddings, cluster(embeddings, threshold)) for threshold in np.linspace(0.3, 0.99, 20)]
    assert silhouette(embeddings, labels) == max(tried)


def test_the_silhouette_is_scikit_learns():
    embeddings, _ = voices([50, 90, 10, 70])
    labels = np.random.default_rng(0).integers(6, size=len(embeddings)) * 3
    labels[0] = 1  # alone
    assert silhouette(embeddings, labels) == pytest.approx(silhouette_score(embeddings, labels, metric="cosine"))
    assert silhouette(embeddings, np.zeros(len(embeddings))) == 0


def test_the_range_of_a_model_is_around_its_thresholds():
    assert threshold_range({0.01: 0.4, 0.001: 0.6, 0.1: 0.1}) == (pytest.approx(0.3), 0.6)
    with pytest.raises(InputError, match=r"rates of 0\.01 and 0\.001, only for 0\.01, 0\.05; give a threshold"):
        threshold_range({0.01: 0.4, 0.05: 0.3})
    with pytest.raises(InputError, match=r"0\.01 and 0\.001; give a threshold"):
        threshold_range({})


@pytest.mark.parametrize(
    ("n", "arguments", "message"),
    [
        (0, {"threshold": 0.5}, "0 recordings to cluster"),
        (MAX_RECORDINGS + 1, {"threshold": 0.5}, "30001 recordings to cluster, expected 1 to 30000"),
        (3, {}, "neither or both"),
        (3, {"threshold": 0.5, "n_speakers": 2}, "neither or both"),
        (3, {"n_speakers": 4}, "3 recordings cannot be of 4 speakers"),
    ],
)
def test_what_cannot_be_clustered_is_refused_with_a_reason(n, arguments, message):
    with pytest.raises(InputError, match=message):
        cluster(np.ones((n, 2)), **arguments)
