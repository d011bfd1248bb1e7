"""What is doubted of a recording: not the samples as they are, but what clipping, echoes, noise and telephones make of them."""

import re
from pathlib import Path

import numpy as np
import pytest

import speakerprint
from speakerprint.audio.decode import decode
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.quality import measure, spoken_frames
from speakerprint.audio.resample import resample
from speakerprint.audio.voice_activity import speech_spans

SAMPLES = Path(speakerprint.__file__).parent / "samples"


def voice(name="ann-1.ogg"):
    samples, sample_rate_hz = decode((SAMPLES / name).read_bytes(), name)
    return resample(samples, sample_rate_hz, 16_000)


def doubts(samples):
    spans = speech_spans(samples)
    quality = measure(samples, spans, spoken_frames(log_mel(samples), spans))
    return None if quality is None else quality.doubts()


def clipped(samples, fraction):
    level = np.quantile(np.abs(samples), 1 - fraction)
    return np.clip(samples, -level, level)


def echoing(samples, direct_db):
    """In a room whose tail falls by 60 dB in 0.8 s, with the direct sound so far above the tail."""
    time_s = np.arange(12_800) / 16_000
    tail = np.random.default_rng(1).normal(size=len(time_s)) * 10 ** (-3 * time_s / 0.8)
    tail *= 10 ** (-direct_db / 20) / np.linalg.norm(tail)
    tail[0] = 1
    heard = np.convolve(samples, tail)[: len(samples)]
    return (heard / np.abs(heard).max()).astype(np.float32)


def noisy(samples, snr_db):
    noise = np.random.default_rng(1).normal(size=len(samples)) * np.sqrt(np.mean(samples**2)) * 10 ** (-snr_db / 20)
    return (samples + noise).astype(np.float32)


@pytest.mark.parametrize("name", ["ann-1.ogg", "ann-2.ogg", "bob.ogg"])
def test_a_good_recording_is_not_doubted_however_loud_it_is(name):
    assert doubts(voice(name)) == doubts(0.05 * voice(name)) == []


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (clipped(voice(), 0.1), "it is clipped: 1[0-9]% of the speech"),
        (echoing(voice(), -5), "it echoes or is noisy"),
        (noisy(voice(), 0), "it echoes or is noisy"),
        (resample(resample(voice(), 16_000, 8_000), 8_000, 16_000), "it has no sound above 4.7 kHz, like a telephone's"),
    ],
    ids=["clipped", "echoing", "noisy", "from a telephone"],
)
def test_what_makes_a_recording_unfit_is_said(damaged, said):
    (found,) = doubts(damaged)
    assert re.match(said, found), found


def test_steady_noise_that_leaves_the_lower_bands_is_not_doubted():
    assert doubts(noisy(voice(), 20)) == []


def test_nothing_is_measured_where_nobody_speaks():
    assert doubts(np.zeros(16_000, np.float32)) is None
    assert doubts(np.random.default_rng(1).uniform(-1, 1, 32_000).astype(np.float32)) is None
