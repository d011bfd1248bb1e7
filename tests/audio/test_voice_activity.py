"""Silence is cut off and speech is kept; what holds no speech is refused."""

import sys

import numpy as np
import pytest
import silero_vad

from speakerprint import SpeakerEmbedder
from speakerprint.audio import voice_activity
from speakerprint.audio.resample import resample
from speakerprint.audio.voice_activity import NoSpeech, require_speech, spans_of, speech_probabilities, speech_spans, trim_silence
from speakerprint.corpora.sources.espeak import ESPEAK_SAMPLE_RATE_HZ, speak
from speakerprint.errors import InputError

NOISE = np.random.default_rng(0).normal(scale=0.001, size=32_000).astype(np.float32)


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    text = "Seven small ships sailed past the old harbour."
    samples = resample(speak(text, "en-us", rate_wpm=150, pitch=40, pitch_range=50), ESPEAK_SAMPLE_RATE_HZ, 16_000)
    heard = np.flatnonzero(np.abs(samples) > 0.02)
    return samples[heard[0] : heard[-1]]


def test_speech_is_found_where_it_was_put(sentence):
    spans = speech_spans(np.concatenate([NOISE, sentence, NOISE]))
    assert spans[0][0] == pytest.approx(32_000, abs=3_200) and spans[-1][1] == pytest.approx(32_000 + len(sentence), abs=3_200)


def test_silence_at_the_ends_is_cut_to_half_a_second_and_a_pause_stays(sentence):
    samples = np.concatenate([NOISE, sentence, NOISE, sentence, NOISE])
    trimmed, spans = trim_silence(samples, speech_spans(samples))
    assert len(trimmed) == pytest.approx(2 * len(sentence) + 32_000 + 16_000, abs=6_400)
    assert (spans[0][0], spans[-1][1]) == (8_000, len(trimmed) - 8_000)


def test_speech_without_silence_around_it_stays_whole(sentence):
    np.testing.assert_array_equal(trim_silence(sentence, speech_spans(sentence))[0], sentence)


@pytest.mark.parametrize("speech_s", [0, 0.3])
def test_a_recording_with_next_to_no_speech_is_refused_with_the_reason(sentence, speech_s):
    with pytest.raises(NoSpeech, match=r"door\.wav: holds 0\.\d\d s of speech, expected at least 0\.5 s"):
        require_speech(np.concatenate([NOISE, sentence[: int(16_000 * speech_s)], NOISE]), "door.wav")


@pytest.mark.slow
def test_an_embedder_that_requires_speech_refuses_noise_and_hears_all_of_a_recording_with_speech(sentence):
    strict, lenient = SpeakerEmbedder.load(require_speech=True), SpeakerEmbedder.load()
    assert len(lenient.embed(NOISE, 16_000)) == lenient.embedding_dim
    with pytest.raises(NoSpeech, match=r"waveform: holds 0\.00 s of speech"):
        strict.embed(NOISE, 16_000)
    padded = np.concatenate([NOISE, sentence])
    np.testing.assert_array_equal(strict.embed(padded, 16_000), lenient.embed(padded, 16_000))


@pytest.mark.parametrize("mood", [-0.2, 0.0, 0.2])
def test_spans_are_cut_from_probabilities_as_silero_cuts_them(mood):
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n_chunks = rng.integers(1, 200)
        smooth = np.convolve(rng.random(n_chunks + 4), np.ones(5) / 5, "valid")
        probabilities = np.clip(smooth + rng.normal(mood, 0.2, n_chunks), 0, 1).astype(np.float32)
        n_samples = int(n_chunks * 512 - rng.integers(512))
        theirs = silero_vad.utils_vad.get_speech_timestamps_from_probs(probabilities, audio_length_samples=n_samples)
        assert spans_of(probabilities, n_samples) == [(span["start"], span["end"]) for span in theirs]


def test_the_network_is_silero_vads_own(sentence):
    samples = np.concatenate([NOISE, sentence])
    theirs = silero_vad.load_silero_vad(sequence=True).audio_forward(samples)
    np.testing.assert_allclose(speech_probabilities(samples), theirs, atol=1e-5)


def test_a_damaged_network_is_refused(monkeypatch, tmp_path):
    (tmp_path / voice_activity.PACKAGE / "data").mkdir(parents=True)
    (tmp_path / voice_activity.PACKAGE / "__init__.py").touch()
    (tmp_path / voice_activity.PACKAGE / voice_activity.FILE).write_bytes(b"damaged")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, voice_activity.PACKAGE, raising=False)
    with pytest.raises(InputError, match=r"op15\.onnx is missing, damaged or of another version; pip install --force-reinstall"):
        voice_activity._detector.__wrapped__()


@pytest.mark.slow
def test_an_embedder_that_trims_hears_the_sentence_and_not_the_silence_around_it(sentence):
    embedder = SpeakerEmbedder.load()
    padded, alone = np.concatenate([NOISE, sentence, NOISE]), embedder.embed(sentence, 16_000)
    as_it_is = embedder.embed(padded, 16_000) @ alone
    embedder.trim_silence = True
    assert embedder.embed(padded, 16_000) @ alone > max(0.9, as_it_is)
    with pytest.raises(NoSpeech, match="waveform: holds"):
        embedder.embed(NOISE, 16_000)
