"""The conditions of experiments/peers.py."""

import dataclasses

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from experiments import conditions
from experiments.conditions import REPORT_NOISES, add_noise, all_conditions, crop, draw_noise, opus, read_noises, telephone
from speakerprint.errors import InputError

RATE_HZ = 16_000
RNG = np.random.default_rng(3)
NOISES = [(scale * RNG.standard_normal(seconds * RATE_HZ)).astype(np.float32) for scale, seconds in ((0.01, 2), (0.3, 5))]
CONDITIONS = {condition.name: condition for condition in all_conditions(NOISES)}


def tones(*frequencies_hz, seconds=2.0):
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return sum(0.1 * np.sin(2 * np.pi * f * t) for f in frequencies_hz).astype(np.float32)


def amplitude_at(samples, frequency_hz):
    """Of the tone at a whole number of Hz, from the second in the middle."""
    middle = samples[len(samples) // 2 - RATE_HZ // 2 :][:RATE_HZ]
    return abs(np.fft.rfft(middle)[frequency_hz]) * 2 / RATE_HZ


def snr_db(speech, mixed):
    return 10 * np.log10(np.mean(np.square(speech)) / np.mean(np.square(mixed - speech)))


# --- all of them ----------------------------------------------------------------------------------------------------


def test_the_conditions_are_those_of_the_protocol():
    lengths, noises = ["full", "1s", "2s", "3s"], ["noise-20dB", "noise-10dB", "noise-5dB", "noise-0dB"]
    assert list(CONDITIONS) == [*lengths, *noises, "telephone", "opus-6k"]
    assert [condition.name for condition in all_conditions([])] == [*lengths, "telephone", "opus-6k"]


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("seconds", [0.13, 2.4])
def test_a_condition_repeats_itself_and_leaves_the_recording_alone(condition, seconds):
    samples = tones(300, 1234, seconds=seconds)
    before = samples.copy()
    first, again = condition.apply(samples, "a"), condition.apply(samples, "a")
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(samples, before)
    assert first.dtype == np.float32 and first.ndim == 1 and np.abs(first).max() <= 1
    crop_s = {"1s": 1, "2s": 2, "3s": 3}.get(condition.name, np.inf)
    assert len(first) == min(len(samples), crop_s * RATE_HZ)


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_no_condition_goes_beyond_full_scale(condition):
    loud = np.sign(tones(440)).astype(np.float32)
    assert np.abs(condition.apply(loud, "a")).max() <= 1


def test_a_digest_tells_conditions_apart_and_changes_with_their_words_and_with_what_they_do():
    digests = [condition.digest() for condition in CONDITIONS.values()]
    assert len(set(digests)) == len(digests)
    telephone_line = CONDITIONS["telephone"]
    assert telephone_line.digest() == digests[list(CONDITIONS).index("telephone")]
    assert dataclasses.replace(telephone_line, definition="a better line").digest() not in digests
    assert dataclasses.replace(telephone_line, apply=lambda samples, _: samples[::2]).digest() not in digests


def test_other_sounds_make_another_condition_even_where_they_are_not_drawn():
    other = all_conditions([*NOISES, NOISES[0][::2]])
    digests = {condition.name: condition.digest() for condition in other}
    changed = {name for name, condition in CONDITIONS.items() if condition.digest() != digests[name]}
    assert changed == {"noise-20dB", "noise-10dB", "noise-5dB", "noise-0dB"}


# --- each of them ---------------------------------------------------------------------------------------------------


def test_a_crop_is_the_middle():
    samples = np.arange(5 * RATE_HZ, dtype=np.float32)
    np.testing.assert_array_equal(crop(samples, 1), samples[2 * RATE_HZ : 3 * RATE_HZ])


@given(st.integers(0, 70_000), st.sampled_from([1, 2, 3]))
def test_a_crop_takes_as_much_from_both_ends_and_keeps_shorter_clips_whole(n_samples, seconds):
    cropped = crop(np.arange(n_samples), seconds)
    assert len(cropped) == min(n_samples, seconds * RATE_HZ)
    if n_samples:
        from_start, from_end = cropped[0], n_samples - 1 - cropped[-1]
        assert 0 <= from_end - from_start <= 1


@pytest.mark.parametrize("noise", NOISES, ids=["quiet", "loud"])
@pytest.mark.parametrize("wanted_db", [20, 10, 5, 0])
def test_noise_is_as_far_below_the_speech_as_asked_for_however_loud_it_was_recorded(noise, wanted_db):
    speech = tones(440)
    assert snr_db(speech, add_noise(speech, noise[: len(speech)], wanted_db)) == pytest.approx(wanted_db, abs=0.01)


def test_a_mix_that_is_too_loud_is_turned_down_and_not_clipped():
    speech = 9 * tones(440)
    mixed = add_noise(speech, NOISES[0], 0)
    assert np.abs(mixed).max() == 1
    gain = (mixed @ speech) / (speech @ speech)
    assert gain < 0.9 and snr_db(speech, mixed / gain) == pytest.approx(0, abs=0.2)


def test_noise_without_a_level_is_refused():
    with pytest.raises(InputError, match="digital silence"):
        add_noise(tones(440), np.zeros(2 * RATE_HZ, np.float32), 10)


def test_a_recording_gets_the_same_noise_at_every_level_and_recordings_get_different_noise():
    speech = tones(440)
    quiet, loud = (CONDITIONS[name].apply(speech, "a") - speech for name in ("noise-20dB", "noise-10dB"))
    np.testing.assert_allclose(loud, quiet * 10**0.5, atol=1e-6)
    assert not np.allclose(quiet, CONDITIONS["noise-20dB"].apply(speech, "b") - speech, atol=1e-3)


def test_every_sound_is_drawn_and_from_many_starts():
    drawn = [draw_noise(NOISES, 10, f"recording {i}") for i in range(50)]
    sources = [next(k for k, noise in enumerate(NOISES) if piece[0] in noise) for piece in drawn]
    assert 10 < sum(sources) < 40
    assert len({piece.tobytes() for piece in drawn}) == 50


def test_noise_shorter_than_the_recording_goes_round():
    sound = np.arange(1, 6, dtype=np.float32)
    drawn = draw_noise([sound], 12, "a")
    np.testing.assert_array_equal(drawn[5:10], drawn[:5])
    np.testing.assert_array_equal(np.sort(drawn[:5]), sound)


def test_a_telephone_line_passes_its_band_and_nothing_else():
    heard = telephone(tones(100, 500, 1000, 3000, 5000))
    assert [amplitude_at(heard, f) for f in (500, 1000, 3000)] == pytest.approx([0.1] * 3, rel=0.06)
    assert max(amplitude_at(heard, f) for f in (100, 5000)) < 0.0005


@pytest.mark.parametrize("frequency_hz", [300, 3400])
def test_the_edges_of_the_telephone_band_are_halved_by_the_two_passes(frequency_hz):
    assert amplitude_at(telephone(tones(frequency_hz)), frequency_hz) == pytest.approx(0.05, rel=0.05)


def test_opus_at_six_kbit_keeps_the_voice_band_and_loses_the_rest():
    decoded = opus(tones(440, 6000, seconds=3.0))
    assert amplitude_at(decoded, 440) == pytest.approx(0.1, rel=0.2)
    assert amplitude_at(decoded, 6000) < 0.005


def test_opus_is_lossier_at_fewer_bits():
    t = np.arange(3 * RATE_HZ) / RATE_HZ
    voice = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 25)) * (1.2 + np.sin(2 * np.pi * 3 * t)) / 10
    magnitudes = np.abs(np.fft.rfft(voice))
    losses = [np.linalg.norm(np.abs(np.fft.rfft(opus(voice.astype(np.float32), rate))) - magnitudes) for rate in (6_000, 64_000)]
    assert losses[0] > 2 * losses[1]


# --- noise files ----------------------------------------------------------------------------------------------------


def write_sounds(folder, classes, sample_rate_hz=44_100):
    for frequency_hz, name in enumerate(classes, start=200):
        (folder / name).mkdir(parents=True)
        t = np.arange(sample_rate_hz) / sample_rate_hz
        soundfile.write(folder / name / "sound.ogg", 0.1 * np.sin(2 * np.pi * frequency_hz * t), sample_rate_hz)


def test_noises_of_the_report_are_read_at_16_khz_and_no_others(tmp_path):
    write_sounds(tmp_path, [*REPORT_NOISES, "sea", "dog"])
    noises = read_noises(tmp_path)
    assert len(noises) == len(REPORT_NOISES)
    strongest = [int(np.abs(np.fft.rfft(noise, RATE_HZ)).argmax()) for noise in noises]
    assert strongest == pytest.approx([200, 201, 202, 203], abs=1)
    assert {noise.dtype for noise in noises} == {np.dtype(np.float32)}


def test_silence_around_a_sound_is_cut_off(tmp_path, monkeypatch):
    write_sounds(tmp_path, REPORT_NOISES)
    padded = np.concatenate([np.zeros(500, np.float32), tones(440, seconds=0.5)[1:], np.zeros(9000, np.float32)])
    monkeypatch.setattr(conditions, "decode", lambda data, name: (padded, RATE_HZ))
    assert {len(noise) for noise in read_noises(tmp_path)} == {RATE_HZ // 2 - 1}


def test_a_class_without_sounds_is_named(tmp_path):
    write_sounds(tmp_path, REPORT_NOISES[:2])
    with pytest.raises(InputError, match=rf"{REPORT_NOISES[2]} holds no \*\.ogg"):
        read_noises(tmp_path)
