"""experiments/pyannote_pipeline.py with stand-ins for pyannote's networks: windows, masks, clusters, turns."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from experiments import pyannote_pipeline
from experiments.pyannote_pipeline import STEP, WINDOW, Community1, n_windows, reconstruct, turns_of, vbx
from speakerprint.errors import InputError

FRAMES = 589  # of the segmentation, in a window
RNG = np.random.default_rng(1)
BETWEEN = np.full(128, 20.0)
PEOPLE = 4 * RNG.normal(size=(3, 128))


def voices(*who, spread=1.0):
    """A point near each of these people's, (n, 128)."""
    return PEOPLE[list(who)] + spread * RNG.normal(size=(len(who), 128))


def pipeline(segmentation=None, embedding=None):
    return Community1(segmentation, embedding, lambda rows: rows[:, :128], BETWEEN)


class Embedding:
    """Keeps what it is given, and embeds as the filters' mean by weight in the first numbers of 256."""

    def __init__(self):
        self.calls = []

    def run(self, _, inputs):
        fbank, weights = inputs["fbank"], inputs["weights"]
        self.calls.append((fbank, weights))
        found = np.zeros((len(weights), 256), np.float32)
        nearest = weights[:, np.arange(fbank.shape[1]) * FRAMES // fbank.shape[1]]
        found[:, : fbank.shape[2]] = nearest @ fbank[0] / nearest.sum(axis=1, keepdims=True)
        return [found]


@pytest.fixture
def clock_filters(monkeypatch):
    """Filters that are the square of the number of their frame of 10 ms."""

    def filters(samples):
        return np.arange(1 + (len(samples) - 400) // 160, dtype=np.float32)[:, None] ** 2

    monkeypatch.setattr(pyannote_pipeline, "kaldi_filters", lambda window: filters)


# --- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, 1), (10, 1), (10.1, 2), (11, 2), (30, 21)])
def test_windows_of_ten_seconds_every_second_cover_all(seconds, expected):
    assert n_windows(round(seconds * STEP)) == expected


def test_another_rate_or_two_channels_are_refused(tmp_path):
    for name, samples, rate_hz in (("slow", np.zeros(800), 8_000), ("stereo", np.zeros((1600, 2)), 16_000)):
        soundfile.write(tmp_path / f"{name}.wav", samples, rate_hz)
        with pytest.raises(InputError, match=r"expected 16000 Hz and one channel"):
            pipeline()(tmp_path / f"{name}.wav")


# --- embeddings -----------------------------------------------------------------------------------------------------


def test_a_speaker_is_embedded_where_they_speak_alone(clock_filters):
    active = np.zeros((1, FRAMES, 3), bool)
    active[0, :300, 0] = active[0, 200:, 1] = True  # both from 200 to 300
    embedding = Embedding()
    found = pipeline(embedding=embedding).embed(np.zeros(WINDOW, np.float32), active)
    expected = np.zeros((2, FRAMES))
    expected[0, :200] = expected[1, 300:] = 1
    np.testing.assert_array_equal(embedding.calls[0][1], expected)
    assert found[0, :2].any(axis=1).all() and not found[0, 2].any(), "nobody has no embedding"


def test_a_speaker_who_is_never_alone_is_embedded_with_the_overlap(clock_filters):
    active = np.zeros((1, FRAMES, 3), bool)
    active[0, :, 0] = active[0, 100:200, 1] = True
    embedding = Embedding()
    pipeline(embedding=embedding).embed(np.zeros(WINDOW, np.float32), active)
    assert embedding.calls[0][1].sum(axis=1).tolist() == [FRAMES - 100, 100]


def test_a_window_is_heard_at_its_own_time_and_without_its_mean(clock_filters):
    active = np.zeros((4, FRAMES, 3), bool)
    active[:, :, 1] = True
    active[2] = False  # nobody speaks
    embedding = Embedding()
    pipeline(embedding=embedding).embed(np.zeros(3 * STEP + WINDOW, np.float32), active)
    assert len(embedding.calls) == 3
    for number, (fbank, _) in zip((0, 1, 3), embedding.calls, strict=True):
        squares = (100 * number + np.arange(998.0)) ** 2
        np.testing.assert_allclose(fbank[0, :, 0], squares - squares.mean(), atol=1)


# --- clusters -------------------------------------------------------------------------------------------------------


def test_variational_bayes_drops_the_speakers_that_it_does_not_need():
    points, start = voices(*[0] * 20, *[1] * 20), np.arange(40) // 10  # two clusters for each
    shares = vbx(points, BETWEEN, start)
    assert shares.shape == (40, 2)
    np.testing.assert_array_equal(shares.argmax(axis=1) == shares[0].argmax(), np.arange(40) < 20)


def test_the_shares_of_a_point_add_up_to_one():
    shares = vbx(voices(*[0, 1, 2] * 10), BETWEEN, np.tile([0, 1, 2], 10))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_two_speakers_of_one_window_are_two_and_nobody_is_none():
    active = np.zeros((20, FRAMES, 3), bool)
    active[:, :250, 0] = active[:, 250:500, 1] = True
    active[19, :, :] = False
    embeddings = np.zeros((20, 3, 256))
    embeddings[:, 0, :128], embeddings[:, 1, :128] = voices(*[0] * 20), voices(*[1] * 20)
    embeddings[7, 1] = embeddings[7, 0]  # by its voice alone it would be the first speaker again
    speakers = pipeline().cluster(embeddings, active)
    assert set(speakers[:19, 0]) == {speakers[0, 0]} and set(speakers[:19, 1]) == {speakers[0, 1]} != {speakers[0, 0]}
    assert (speakers[:, 2] == -1).all() and (speakers[19] == -1).all()


def test_one_embedding_is_one_speaker():
    active = np.zeros((1, FRAMES, 3), bool)
    active[0, :, 0] = True
    assert pipeline().cluster(np.ones((1, 3, 256)), active).tolist() == [[0, -1, -1]]


# --- turns ----------------------------------------------------------------------------------------------------------


def test_a_frame_goes_to_as_many_as_the_windows_count_and_to_whom_most_name():
    active = np.zeros((3, FRAMES, 3), bool)
    active[:, 200:400, 0] = True  # speaker 0 in the first two windows, speaker 1 in the third, which alone sees a second there
    active[2, 200:400, 1] = True
    speaking = reconstruct(active, np.array([[0, -1, -1], [0, -1, -1], [1, 0, -1]]))
    middle = 60 * 2 + 240
    assert speaking[middle].tolist() == [True, False]
    assert not speaking[:200].any() and not speaking[-150:].any()


def test_where_the_windows_count_two_there_are_two():
    active = np.ones((2, FRAMES, 3), bool)
    active[:, :, 2] = False
    assert reconstruct(active, np.array([[1, 0, -1], [0, 1, -1]])).all()


def test_without_speech_there_are_no_turns():
    nobody = np.zeros((2, FRAMES, 3), bool)
    assert turns_of(reconstruct(nobody, np.full((2, 3), -1))) == []


def test_a_turn_goes_from_the_middle_of_its_first_frame_to_that_of_the_next():
    speaking = np.zeros((100, 2), bool)
    speaking[10:20, 1] = speaking[0:5, 0] = True
    found = turns_of(speaking)
    assert [speaker for _, _, speaker in found] == ["speaker 1", "speaker 2"]
    assert found[1][:2] == pytest.approx((0.03097 + 10 * 0.016875, 0.03097 + 20 * 0.016875), abs=1e-4)


# --- the whole ------------------------------------------------------------------------------------------------------


def test_two_who_take_turns_are_found_by_stand_ins(tmp_path, monkeypatch):
    """Loudness stands for the voice: segmentation and filters tell a loud speaker from a quiet one."""
    seconds = np.arange(24 * 16_000) / 16_000
    level = np.where(seconds % 12 < 6, 0.5, 0.1) * (seconds % 6 < 5)  # 5 s each in turn, 1 s of pause
    soundfile.write(tmp_path / "two.wav", level, 16_000, subtype="FLOAT")

    def segment(_, inputs):
        heard = inputs["waveforms"][0, 0, (np.arange(FRAMES) * 270 + 495)]
        return [np.stack([heard > 0.3, (heard > 0.05) & (heard < 0.3), heard > 1], axis=1)[None].astype(np.float32)]

    def filters(samples):
        heard = samples[(np.arange(1 + (len(samples) - 400) // 160) * 160 + 200)] / 2**15
        return np.column_stack([PEOPLE[0] * (heard > 0.3)[:, None] + PEOPLE[1] * ((heard > 0.05) & (heard < 0.3))[:, None]])

    monkeypatch.setattr(pyannote_pipeline, "kaldi_filters", lambda window: filters)
    found = pipeline(SimpleNamespace(run=segment), Embedding())(tmp_path / "two.wav")
    assert len(found) == 4 and [s == found[0][2] for _, _, s in found] == [True, False, True, False]
    np.testing.assert_allclose([turn[:2] for turn in found], [(0, 5), (6, 11), (12, 17), (18, 23)], atol=0.05)


def test_without_the_wheel_it_says_where_it_was_sought(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaldi_native_fbank", object())
    with pytest.raises(InputError, match=r"wheels holds no moonshine_voice-0\.0\.73-\*\.whl"):
        pyannote_pipeline.load(tmp_path / "wheels")
