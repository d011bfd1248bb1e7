"""What is made of a voice to pass for another: its pitch, its average spectrum, and how a loudspeaker sounds."""

import numpy as np
import pytest

from experiments.impersonation import attempts, loudspeaker, of_frames_of, pitch_hz, with_pitch_of, with_spectrum_of


def voice(pitch, tilt=1.0):
    """A second of harmonics, each by so much softer."""
    t = np.arange(16_000) / 16_000
    return sum(0.3 / k**tilt * np.sin(2 * np.pi * pitch * k * t) for k in range(1, 20)).astype(np.float32)


def test_the_pitch_is_that_of_the_harmonics_and_noise_has_none():
    assert pitch_hz(voice(125)) == pytest.approx(125, rel=0.02)
    assert np.isnan(pitch_hz(np.random.default_rng(0).normal(size=16_000).astype(np.float32)))


def test_a_voice_is_given_the_pitch_of_another():
    assert pitch_hz(with_pitch_of(voice(125), voice(160))) == pytest.approx(160, rel=0.03)


def tilt(samples):
    power = np.abs(np.fft.rfft(samples)) ** 2
    return power[1_800:2_000].sum() / power[100:300].sum()


def test_what_a_voice_says_is_said_in_frames_of_another():
    dull, bright = voice(125, 2.0) * np.linspace(0.1, 1, 16_000, dtype=np.float32), voice(125, 0.5)
    said = of_frames_of(dull, bright)
    assert tilt(said) == pytest.approx(tilt(bright), rel=0.5) and said.shape == dull.shape
    assert np.std(said[:4_000]) / np.std(said[-4_000:]) == pytest.approx(np.std(dull[:4_000]) / np.std(dull[-4_000:]), rel=0.1)


def test_a_voice_is_given_the_spectrum_of_another():
    dull, bright = voice(125, 2.0), voice(125, 0.5)
    assert tilt(with_spectrum_of(dull, bright)) == pytest.approx(tilt(bright), rel=0.2) and tilt(dull) < tilt(bright) / 100


def test_a_loudspeaker_has_no_bass_and_saturates():
    def level(frequency_hz, loudness=1.0):
        tone = loudness * np.sin(2 * np.pi * frequency_hz * np.arange(16_000) / 16_000).astype(np.float32)
        both = loudspeaker(tone + np.float32(loudness) * voice(1_000))
        return np.abs(np.fft.rfft(both))[frequency_hz]

    assert level(50) < 0.1 * level(1_500)
    assert np.abs(loudspeaker(voice(200))).max() == pytest.approx(np.tanh(2), abs=0.01)


def test_nobody_is_their_own_impersonator():
    recordings = {name: [voice(100 + 20 * n)] * 3 for n, name in enumerate("ab")}
    tried = list(attempts(recordings))
    assert len(tried) == 2 * (1 + 3 + 1 + 5) and {speaker for _, speaker, _ in tried} == {"a", "b"}
    as_they_are = [(speaker, heard) for name, speaker, heard in tried if name == "another speaker"]
    assert [pitch_hz(heard) > 110 for _, heard in as_they_are] == [True, False]
