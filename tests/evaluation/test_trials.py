"""Figures against a second implementation in plain loops, and against cases worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerprint.errors import InputError
from speakerprint.evaluation.trials import (
    Scores,
    Trials,
    all_pairs,
    confused_speakers,
    crossings,
    eer_interval,
    equal_error_rate,
    pairs_by_shorter,
    pairs_within,
    retrieve,
    score_trials,
)

LEVEL = 2.0**-24

# --- the second implementation: loops over pairs and thresholds --------------------------------------------------------


def cosine(a, b):
    product = math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(math.fsum(float(x) ** 2 for x in a)) * math.sqrt(math.fsum(float(y) ** 2 for y in b))
    return round(product / lengths / LEVEL) * LEVEL


def brute_scores(embeddings, speakers, keep=lambda i, j: True):
    target: list[float] = []
    nontarget: list[float] = []
    for i, j in itertools.combinations(range(len(speakers)), 2):
        if keep(i, j):
            (target if speakers[i] == speakers[j] else nontarget).append(cosine(embeddings[i], embeddings[j]))
    return target, nontarget


def lists_of(trials):
    return tuple((np.asarray(scores) * LEVEL).tolist() for scores in (trials.target, trials.nontarget))


def brute_points(target, nontarget):
    """(threshold, miss rate, false-accept rate) at every distinct score and above all."""
    thresholds = [*sorted({*target, *nontarget}), math.inf]
    return [(t, sum(s < t for s in target) / len(target), sum(s >= t for s in nontarget) / len(nontarget)) for t in thresholds]


def brute_eer(target, nontarget):
    points = brute_points(target, nontarget)
    for (_, miss0, accept0), (_, miss1, accept1) in itertools.pairwise(points):
        if miss1 >= accept1:
            share = (accept0 - miss0) / ((accept0 - miss0) + (miss1 - accept1))
            return miss0 + share * (miss1 - miss0)
    raise AssertionError("the curve ends at miss rate 1, false-accept rate 0")


@st.composite
def small_sets(draw):
    """Embeddings with small whole components, so that equal cosines abound, of at least two speakers, one with a pair."""
    n = draw(st.integers(3, 14))
    component = st.integers(-2, 2)
    row = st.lists(component, min_size=3, max_size=3).filter(any)
    embeddings = np.array(draw(st.lists(row, min_size=n, max_size=n)), dtype=float)
    speakers = ["a", "a", "b", *draw(st.lists(st.sampled_from("abcd"), min_size=n - 3, max_size=n - 3))]
    return embeddings, np.array(speakers, dtype=object)


@pytest.mark.slow
@given(small_sets())
@settings(max_examples=150, deadline=None)
def test_every_figure_equals_the_loops(case):
    embeddings, speakers = case
    trials = score_trials(embeddings, speakers)
    target, nontarget = brute_scores(embeddings, speakers)
    points = brute_points(target, nontarget)

    assert lists_of(trials) == (sorted(target), sorted(nontarget))
    assert trials.equal_error_rate()[0] == pytest.approx(brute_eer(target, nontarget), abs=1e-12)
    for p_target in (0.01, 0.5, 0.9):
        cost = min(p_target * miss + (1 - p_target) * accept for _, miss, accept in points) / min(p_target, 1 - p_target)
        assert trials.min_dcf(p_target) == pytest.approx(cost, abs=1e-12)
    wins = sum((t > s) + (t == s) / 2 for t in target for s in nontarget)
    assert trials.auc() == pytest.approx(wins / len(target) / len(nontarget), abs=1e-12)
    for mean, scores in zip(trials.mean_distances(), (target, nontarget), strict=True):
        assert mean == pytest.approx(sum(math.sqrt(2 - 2 * s) for s in scores) / len(scores), abs=1e-9)
    curve = trials.curve()
    assert set(zip(curve.miss_rate, curve.false_accept_rate, strict=True)) <= {point[1:] for point in points}


@pytest.mark.slow
@given(small_sets(), st.sampled_from([0.0, 0.001, 0.01, 0.2, 0.5]))
@settings(max_examples=100, deadline=None)
def test_a_threshold_is_the_lowest_score_that_keeps_its_promise(case, allowed):
    target, nontarget = brute_scores(*case)
    threshold = score_trials(*case).threshold_at(allowed)
    lowest = next(t for t, _, accept in brute_points(target, nontarget) if accept <= allowed)
    assert threshold == (lowest if math.isfinite(lowest) else max(target + nontarget) + LEVEL)


@pytest.mark.slow
@given(small_sets())
@settings(max_examples=100, deadline=None)
def test_retrieval_equals_the_loops(case):
    embeddings, speakers = case
    top1, top5, precision = [], [], []
    for i, speaker in enumerate(speakers):
        others = [j for j in range(len(speakers)) if j != i]
        if speaker not in speakers[others]:
            continue
        # at the same score, other speakers' recordings first
        near = sorted(others, key=lambda j: (-cosine(embeddings[i], embeddings[j]), speakers[j] == speaker))[:5]
        hits = [speakers[j] == speaker for j in near]
        top1.append(hits[0])
        top5.append(any(hits))
        precision.append(sum(hits) / len(hits))
    assert retrieve(embeddings, speakers) == pytest.approx((np.mean(top1), np.mean(top5), np.mean(precision)))


@pytest.mark.slow
@given(small_sets(), st.data())
@settings(max_examples=60, deadline=None)
def test_conditions_equal_the_loops(case, data):
    embeddings, speakers = case
    n = len(speakers)
    groups = data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
    within = score_trials(embeddings, speakers, pairs_within(groups))
    brute = brute_scores(embeddings, speakers, lambda i, j: groups[i] == groups[j] >= 0)
    assert lists_of(within) == tuple(map(sorted, brute))

    durations = data.draw(st.lists(st.sampled_from([0.5, 2.0, 3.0, 4.0, 9.0]), min_size=n, max_size=n))
    parts = [score_trials(embeddings, speakers, pairs) for pairs in pairs_by_shorter(durations, [2.0, 4.0])]
    for part, (low, high) in zip(parts, [(0, 2), (2, 4), (4, math.inf)], strict=True):
        brute = brute_scores(embeddings, speakers, lambda i, j: low <= min(durations[i], durations[j]) < high)  # noqa: B023
        assert lists_of(part) == tuple(map(sorted, brute))
    every = score_trials(embeddings, speakers)
    for kind in ("target", "nontarget"):
        together = np.concatenate([getattr(part, kind) for part in parts])
        np.testing.assert_array_equal(np.sort(together), getattr(every, kind))


def many_speakers(rng, n_speakers, n_each, spread=1.0):
    """Shuffled recordings, `n_each` of every speaker, around speaker means."""
    speakers = np.repeat(np.arange(n_speakers), n_each)
    embeddings = rng.normal(size=(n_speakers, 16))[speakers] + spread * rng.normal(size=(len(speakers), 16))
    order = rng.permutation(len(speakers))
    return embeddings[order], speakers[order]


def test_several_blocks_of_rows_equal_one_product():
    embeddings, speakers = many_speakers(np.random.default_rng(1), 110, 3)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(len(units), k=1)
    cosines = np.einsum("nd,nd->n", units[first], units[second])
    same = speakers[first] == speakers[second]
    trials = score_trials(embeddings, speakers)
    np.testing.assert_allclose(np.asarray(trials.target) * LEVEL, np.sort(cosines[same]), atol=LEVEL)
    np.testing.assert_allclose(np.asarray(trials.nontarget) * LEVEL, np.sort(cosines[~same]), atol=LEVEL)

    scores = units @ units.T
    np.fill_diagonal(scores, -np.inf)
    hits = speakers[np.argsort(-scores, axis=1)[:, :5]] == speakers[:, None]
    assert retrieve(embeddings, speakers) == pytest.approx((hits[:, 0].mean(), hits.any(axis=1).mean(), hits.mean()))


@pytest.mark.slow
def test_many_pairs_are_counted_in_a_table_as_few_are_sorted(monkeypatch):
    embeddings, speakers = many_speakers(np.random.default_rng(9), 40, 5)
    groups = speakers % 3
    for rows in (embeddings, np.sign(embeddings[:, :3])):  # all scores different, and a handful of them
        few, few_within = score_trials(rows, speakers), score_trials(rows, speakers, pairs_within(groups))
        with monkeypatch.context() as patch:
            patch.setattr("speakerprint.evaluation.trials.MANY_PAIRS", 0)
            many, many_within = score_trials(rows, speakers), score_trials(rows, speakers, pairs_within(groups))
            assert lists_of(score_trials(rows, speakers, [])) == ([], [])
        assert lists_of(many) == lists_of(few)
        assert lists_of(many_within) == lists_of(few_within)


def test_pairs_with_the_same_cosine_tie_wherever_they_stand():
    rng = np.random.default_rng(2)
    two = rng.normal(size=(2, 256)).astype(np.float32)
    trials = score_trials(two[np.arange(600) % 2], np.arange(600) // 300)
    assert len({*trials.target.levels.tolist(), *trials.nontarget.levels.tolist()}) == 2


# --- cases worked out by hand ------------------------------------------------------------------------------------------


def trials_of(target, nontarget):
    return Trials(*(Scores.of(np.rint(np.array(scores) / LEVEL)) for scores in (target, nontarget)))


def test_a_threshold_by_hand():
    trials = trials_of([0.5, 0.9], [0.1, 0.2, 0.3, 0.4])
    found = [trials.threshold_at(allowed) for allowed in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.5, 0.4, 0.3, 0.1], abs=1e-6)
    assert trials_of([0.25], [0.5]).threshold_at(0.0) == 0.5 + LEVEL  # just above all


def test_the_eers_of_draws_by_hand():
    misses = np.array([[0.0, 1, 2], [0, 0, 0], [2, 2, 2], [0, 0, 2], [0, 2, 2]])
    rejects = np.array([[1.0, 2, 2], [1, 2, 2], [0, 1, 2], [1, 2, 2], [0, 0, 2]])
    assert crossings(misses, rejects) == pytest.approx([0.25, np.nan, 1.0, 0.0, 1.0], nan_ok=True)


def test_eer_is_zero_when_scores_separate():
    trials = trials_of([0.8, 0.9], [0.1, 0.2, 0.3])
    assert trials.equal_error_rate() == (0.0, pytest.approx(0.8))
    assert (trials.auc(), trials.min_dcf()) == (1.0, 0.0)


def test_eer_is_one_when_scores_are_the_wrong_way_round():
    trials = trials_of([0.1, 0.2, 0.3], [0.8, 0.9])
    assert trials.equal_error_rate()[0] == 1.0
    assert (trials.auc(), trials.min_dcf()) == (0.0, 1.0)


def test_eer_is_a_half_when_every_score_is_the_same():
    assert equal_error_rate(np.ones((4, 2)), ["a", "a", "b", "b"]) == 0.5
    assert trials_of([0.5], [0.5]).auc() == 0.5
    assert Trials(*(Scores.counted(np.array([9]), np.array([n])) for n in (2**32, 2**33))).auc() == 0.5  # 2**66 in all


def test_eer_of_two_by_two_with_one_swap():
    # by rising threshold: (miss, accept) = (0, 1), (0, 1/2) at .4, (1/2, 1/2) at .6
    assert trials_of([0.4, 0.8], [0.2, 0.6]).equal_error_rate() == (0.5, pytest.approx(0.6))


def test_eer_is_interpolated_between_operating_points():
    # (0, 1), (0, 2/3) at .2, (0, 1/3) at .3, (1/2, 1/3) at .5: the last step crosses at 1/3
    assert trials_of([0.3, 0.8], [0.1, 0.2, 0.5]).equal_error_rate()[0] == pytest.approx(1 / 3)
    # a tie moves both at once: (0, 1/2) at .5, then (1/2, 0) at .8: crosses half-way, at 1/4
    assert trials_of([0.5, 0.8], [0.1, 0.5]).equal_error_rate()[0] == pytest.approx(1 / 4)


def test_min_dcf_by_hand():
    # of 100 non-target trials one lies above half of the targets: P = .01 pays .5·.01 in misses, or .01·.99 in false accepts
    trials = trials_of([0.5, 0.9], [0.7] + 99 * [0.1])
    assert trials.min_dcf(0.01) == pytest.approx(0.5)
    assert trials.min_dcf(0.9) == pytest.approx(0.1 * 0.01 / 0.1)


def test_distances_by_hand():
    # along x, x, y, −x: target trials (x, x) and (y, −x)
    trials = score_trials([[2, 0], [1, 0], [0, 3], [-1, 0]], [1, 1, 2, 2])
    intra, inter = trials.mean_distances()
    assert intra == pytest.approx(math.sqrt(2) / 2)
    assert inter == pytest.approx((2 * math.sqrt(2) + 2 * 2) / 4)


def test_retrieval_by_hand():
    degrees = np.deg2rad([0, 10, 25, 100, 105, 200])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    # nearest of 0: 10 (b), of 25: 10 (b), of 10: 0 (a), of 105: 100 (a), of 100: 105 (b); 200 is alone and asks nothing
    result = retrieve(embeddings, ["a", "b", "a", "a", "b", "c"])
    assert (result.top_1, result.top_5) == (0.0, 1.0)
    assert result.precision_at_5 == pytest.approx((3 * 2 + 2 * 1) / 5 / 5)


def test_one_place_for_all_recordings_retrieves_nothing_first():
    assert retrieve(np.ones((4, 3)), [1, 1, 2, 2]).top_1 == 0.0


def test_confused_speakers_have_the_highest_mean_score():
    embeddings, speakers = many_speakers(np.random.default_rng(3), 140, 2)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = units[np.argsort(speakers, kind="stable")].reshape(140, 2, -1)
    means = np.einsum("sad,tbd->st", units, units) / 4
    ranked = sorted(itertools.combinations(range(140), 2), key=lambda pair: -means[pair])
    worst = confused_speakers(embeddings, speakers, 7)
    assert [(int(c.speaker), int(c.other)) for c in worst] == ranked[:7]
    assert [c.mean_score for c in worst] == pytest.approx([means[pair] for pair in ranked[:7]], abs=1e-6)
    assert len(confused_speakers(embeddings[:6], ["a", "a", "b", "b", "c", "c"], 7)) == 3


def test_two_speakers_are_one_pair_however_many_are_asked_for():
    (pair,) = confused_speakers(np.array([[1.0, 0], [0, 1.0]]), ["a", "b"], 9)
    assert pair[:2] == ("a", "b") and pair.mean_score == pytest.approx(0, abs=1e-6)


def test_a_curve_is_thin_and_goes_from_end_to_end():
    curve = score_trials(*many_speakers(np.random.default_rng(4), 300, 3)).curve()
    assert 300 < len(curve.miss_rate) <= 500
    assert (curve.false_accept_rate[0], curve.miss_rate[0]) == (1, 0)
    assert (curve.false_accept_rate[-1], curve.miss_rate[-1]) == (0, 1)
    assert (np.diff(curve.false_accept_rate) <= 0).all()
    assert (np.diff(curve.miss_rate) >= 0).all()
    assert np.trapezoid((1 - curve.miss_rate)[::-1], curve.false_accept_rate[::-1]) == pytest.approx(
        score_trials(*many_speakers(np.random.default_rng(4), 300, 3)).auc(), abs=2e-3
    )


def test_densities_hold_every_trial():
    edges, target, nontarget = trials_of([0.5, 0.75], [-0.25, 0.0, 0.25]).densities(4)
    np.testing.assert_allclose(edges, [-0.25, 0, 0.25, 0.5, 0.75], atol=1e-6)
    np.testing.assert_allclose(target, [0, 0, 2, 2], atol=1e-4)
    np.testing.assert_allclose(nontarget, np.array([2, 1, 0, 0]) / 3 * 4, atol=1e-4)


# --- the interval ------------------------------------------------------------------------------------------------------


def brute_interval(embeddings, speakers, samples, rng):
    """Draw speakers, write their copies out, and leave out pairs of copies of one speaker."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    eers = []
    for _ in range(samples):
        drawn = rng.integers(speakers.max() + 1, size=speakers.max() + 1)
        rows_of = [np.flatnonzero(speakers == speaker) for speaker in drawn]
        copy = np.repeat(np.arange(len(drawn)), [len(r) for r in rows_of])
        rows = np.concatenate(rows_of)
        first, second = np.triu_indices(len(rows), k=1)
        same_copy = copy[first] == copy[second]
        trial = same_copy | (speakers[rows[first]] != speakers[rows[second]])
        scores = np.rint((units[rows] @ units[rows].T)[first, second] / LEVEL).astype(np.int32)
        trials = Trials(Scores.of(scores[trial & same_copy]), Scores.of(scores[trial & ~same_copy]))
        eers.append(trials.equal_error_rate()[0])
    return np.quantile(eers, [0.025, 0.975])


def lookalikes(rng, n_speakers, n_each):
    """A quarter of the speakers resemble one another, so that who is drawn decides the false accepts more than the misses."""
    means = rng.normal(size=(n_speakers, 16)) / 4
    means[::4, 0] += 1
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    speakers = np.repeat(np.arange(n_speakers), n_each)
    return means[speakers] + 0.17 * rng.normal(size=(len(speakers), 16)), speakers


@pytest.mark.slow
@pytest.mark.parametrize("case", [many_speakers, lookalikes])
def test_the_interval_is_that_of_speakers_drawn_and_copied(case):
    embeddings, speakers = case(np.random.default_rng(5), 40, 4)
    trials = score_trials(embeddings, speakers)
    low, high = eer_interval(embeddings, speakers, trials, samples=1000, seed=1)
    brute_low, brute_high = brute_interval(embeddings, speakers, 300, np.random.default_rng(6))
    assert low < trials.equal_error_rate()[0] < high
    assert (high - low) / (brute_high - brute_low) == pytest.approx(1, abs=0.2)
    assert (low + high) / 2 == pytest.approx((brute_low + brute_high) / 2, abs=0.2 * (brute_high - brute_low))


def test_the_interval_does_not_depend_on_the_scale_of_the_scores():
    embeddings, speakers = many_speakers(np.random.default_rng(8), 40, 4)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    crowded = np.column_stack([units, np.full(len(units), 10.0)])  # cosine c becomes (c + 100) / 101
    wide, narrow = (eer_interval(rows, speakers, score_trials(rows, speakers), samples=200, seed=1) for rows in (units, crowded))
    assert narrow == pytest.approx(wide, abs=1e-3)


def test_the_interval_depends_on_seed_and_not_on_order():
    embeddings, speakers = many_speakers(np.random.default_rng(7), 30, 4)
    trials = score_trials(embeddings, speakers)
    interval = eer_interval(embeddings, speakers, trials, samples=200, seed=1)
    assert interval == eer_interval(embeddings[::-1], speakers[::-1], trials, samples=200, seed=1)
    assert interval != eer_interval(embeddings, speakers, trials, samples=200, seed=2)


def test_where_all_speakers_are_alike_every_draw_of_them_has_the_eer_of_all_pairs():
    angles = 2 * np.pi / 5 * np.repeat(np.arange(5), 3) + np.tile([0.0, 0.5, 1.3], 5)  # five times the same three, turned
    embeddings, speakers = np.column_stack([np.cos(angles), np.sin(angles)]), np.repeat(np.arange(5), 3)
    trials = score_trials(embeddings, speakers)
    assert trials.equal_error_rate()[0] == pytest.approx(1 / 3)
    assert eer_interval(embeddings, speakers, trials, samples=9, seed=1) == pytest.approx((1 / 3, 1 / 3), abs=1e-9)


def test_the_interval_of_separated_scores_is_zero_wide():
    embeddings, speakers = np.repeat(np.eye(8), 3, axis=0), np.repeat(np.arange(8), 3)
    assert eer_interval(embeddings, speakers, score_trials(embeddings, speakers), samples=100, seed=1) == (0, 0)


def test_draws_without_target_trials_are_left_out():
    embeddings, speakers = [[1, 0], [1, 0], [0, 1], [-1, 0]], ["a", "a", "b", "c"]  # 8 of 27 draws lack a
    assert eer_interval(embeddings, speakers, score_trials(embeddings, speakers), samples=100, seed=1) == (0, 0)


# --- what cannot be measured -------------------------------------------------------------------------------------------


def test_one_recording_a_speaker_is_refused():
    with pytest.raises(InputError, match="no target trial"):
        equal_error_rate(np.eye(3), ["a", "b", "c"])
    with pytest.raises(InputError, match="no speaker has two recordings"):
        retrieve(np.eye(3), ["a", "b", "c"])


def test_one_speaker_is_refused():
    with pytest.raises(InputError, match="no non-target trial"):
        equal_error_rate(np.eye(3), ["a", "a", "a"])


@pytest.mark.parametrize("bad", [[0, 0], [np.nan, 1], [np.inf, 1]])
def test_an_embedding_without_direction_is_named(bad):
    with pytest.raises(InputError, match="embedding 2 of 4"):
        score_trials([[1, 0], [0, 1], bad, [1, 1]], [1, 1, 2, 2])


def test_another_number_of_speaker_ids_is_refused():
    with pytest.raises(InputError, match="3 embeddings but 2 speaker ids"):
        score_trials(np.eye(3), ["a", "b"])


def test_pairs_are_counted():
    assert all_pairs(5)[0].n_pairs == 10
    assert [fan.n_pairs for fan in pairs_within([0, -1, 0, 1, 0, -1])] == [3, 0]
    assert [pairs[0].n_pairs for pairs in pairs_by_shorter([1, 2, 3, 4], [2, 4])] == [3, 3, 0]
