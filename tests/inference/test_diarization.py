"""Who spoke when, on recordings put together from three CC0 clips of two speakers: ann twice, bob once."""

import numpy as np
import pytest
import soundfile

from speakerprint import Diarization, Gallery, Turn, diarize
from speakerprint.audio import stretches
from speakerprint.errors import InputError
from speakerprint.inference import diarization
from speakerprint.inference.diarization import (
    FRAME_S,
    Heard,
    certainty,
    choose,
    frames,
    joined,
    pairs_of,
    smoothest,
    voices_of,
    window_starts,
)
from speakerprint.inference.vectors import unit_vectors
from tests.audio.test_quality import clipped, echoing
from tests.inference.conftest import PAUSE


@pytest.fixture(scope="module")
def found(conversation, embedder) -> Diarization:
    return diarize(conversation, 16_000, embedder=embedder)


def seconds_of(found: Diarization) -> dict[str, float]:
    seconds = dict.fromkeys(found.speakers, 0.0)
    for turn in found.turns:
        seconds[turn.speaker] += turn.end_s - turn.start_s
    return seconds


@pytest.mark.slow
def test_two_speakers_take_turns(found, clips):
    assert list(found.speakers) == ["speaker 1", "speaker 2"]
    first, second = len(clips["ann-1"]) / 16_000, len(clips["ann-1"]) / 16_000 + 0.75 + len(clips["bob"]) / 16_000
    for turn in found.turns:
        middle = (turn.start_s + turn.end_s) / 2
        assert turn.speaker == ("speaker 2" if first < middle < second + 0.75 else "speaker 1")
        assert 0.5 < turn.confidence <= 1
    assert found.duration_s == pytest.approx(second + 0.75 + len(clips["ann-2"]) / 16_000, abs=0.01)


def test_turns_are_in_order_and_do_not_touch_one_of_the_same_speaker(found):
    for turn, following in zip(found.turns, found.turns[1:], strict=False):
        assert turn.start_s < turn.end_s <= following.start_s + 1e-9
        assert turn.speaker != following.speaker or turn.end_s < following.start_s


@pytest.mark.slow
def test_a_speakers_embedding_is_near_a_recording_of_theirs_and_far_from_the_others(found, clips, embedder):
    ann, bob = (embedder.embed(clips[name], 16_000) for name in ("ann-1", "bob"))
    first, second = found.speakers.values()
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ ann > 0.7 > 0.4 > first @ bob and second @ bob > 0.7 > 0.4 > second @ ann


@pytest.mark.slow
def test_a_file_at_another_rate_in_stereo_is_heard_as_the_waveform_is(found, conversation, embedder, tmp_path):
    path = tmp_path / "stereo.flac"
    louder = np.repeat(conversation, 3)  # 48 kHz
    soundfile.write(path, np.stack([louder, louder], axis=1), 48_000)
    again = diarize(path, embedder=embedder)
    assert len(again.speakers) == 2
    assert seconds_of(again) == pytest.approx(seconds_of(found), abs=0.6)


@pytest.mark.slow
def test_one_speaker_is_one_speaker(clips, embedder):
    one = diarize(np.concatenate([clips["ann-1"], PAUSE, clips["ann-2"]]), 16_000, embedder=embedder)
    assert list(one.speakers) == ["speaker 1"]


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "expected"), [(1, 1), (3, 3), ((3, 5), 3), ((1, 2), 2)])
def test_a_known_number_of_speakers_is_kept_to(conversation, embedder, asked, expected):
    assert len(diarize(conversation, 16_000, embedder=embedder, n_speakers=asked).speakers) == expected


@pytest.mark.slow
def test_a_recording_that_echoes_or_is_clipped_is_doubted_and_a_good_one_is_not(found, conversation, embedder, monkeypatch):
    assert found.doubts == ()  # though it has two voices
    (doubt,) = diarize(echoing(conversation, -5), 16_000, embedder=embedder).doubts
    assert doubt.startswith("it echoes or is noisy")
    both = np.stack([conversation, clipped(conversation, 0.1)], axis=1)
    (doubt,) = diarize(both, 16_000, embedder=embedder, channels=True).doubts
    assert doubt.startswith("channel 2: it is clipped")
    monkeypatch.setattr(stretches, "STRETCH_S", 4.0)
    mostly = np.concatenate([echoing(conversation, -5), conversation, conversation])
    assert diarize(mostly, 16_000, embedder=embedder).doubts == ()


def test_without_speech_there_are_no_turns(embedder):
    noise = np.random.default_rng(0).normal(scale=0.01, size=32_000)
    for samples in (noise, np.zeros(32_000), np.zeros(0)):
        nothing = diarize(samples, 16_000, embedder=embedder)
        assert nothing.turns == [] and nothing.speakers == {} and nothing.to_rttm() == ""


@pytest.mark.slow
def test_who_is_enrolled_is_named_and_who_is_not_is_unknown(conversation, clips, embedder, tmp_path):
    gallery = Gallery.open(tmp_path / "people", embedder)
    gallery.enrol("bob the builder", embedder.embed(clips["bob"], 16_000)[None], ["bob.ogg"])
    named = diarize(conversation, 16_000, embedder=embedder, gallery=gallery)
    assert list(named.speakers) == ["unknown 1", "bob the builder"]
    assert {line.split()[7] for line in named.to_rttm("a call").splitlines()} == {"unknown_1", "bob_the_builder"}


def test_two_voices_of_one_name_are_one_speaker(clips, embedder, tmp_path):
    gallery = Gallery.open(tmp_path / "people", embedder)
    gallery.enrol("ann", embedder.embed(clips["ann-1"], 16_000)[None], ["ann.ogg"])
    two = diarize(clips["ann-1"], 16_000, embedder=embedder, n_speakers=2, gallery=gallery)
    assert list(two.speakers) == ["ann"] and {turn.speaker for turn in two.turns} == {"ann"}


@pytest.mark.slow
def test_each_channel_is_one_voice_where_that_is_asked_for(clips, embedder):
    n = len(clips["ann-1"]) + len(clips["bob"])
    call = np.zeros((n, 2), np.float32)
    call[: len(clips["ann-1"]), 0], call[len(clips["ann-1"]) :, 1] = clips["ann-1"], clips["bob"]
    found = diarize(call, 16_000, embedder=embedder, channels=True)
    assert list(found.speakers) == ["channel 1", "channel 2"]
    for turn in found.turns:
        assert (turn.speaker == "channel 1") == (turn.end_s <= len(clips["ann-1"]) / 16_000 + 0.1)


def test_rttm_has_the_ten_columns_of_nist():
    found = Diarization([Turn(0.5, 2.25, "speaker 1", 0.987)], {}, 3.0)
    assert found.to_rttm("my call") == "SPEAKER my_call 1 0.500 1.750 <NA> <NA> speaker_1 0.987 <NA>\n"


@pytest.mark.parametrize("n_speakers", [0, (0, 2), (3, 2)])
def test_an_impossible_number_of_speakers_is_refused(embedder, n_speakers):
    with pytest.raises(InputError, match="expected a number from 1, or a range such as 2-4"):
        diarize(PAUSE, 16_000, embedder=embedder, n_speakers=n_speakers)


def test_what_cannot_be_heard_is_refused_with_the_reason(embedder, tmp_path):
    with pytest.raises(InputError, match=r"missing\.wav: cannot be read \(No such file"):
        diarize(tmp_path / "missing.wav", embedder=embedder)
    with pytest.raises(InputError, match="without its sample rate"):
        diarize(PAUSE, embedder=embedder)
    with pytest.raises(InputError, match="separate channels"):
        diarize(PAUSE, 16_000, embedder=embedder, n_speakers=2, channels=True)
    with pytest.raises(InputError, match="waveform: has one channel, expected a channel for each speaker"):
        diarize(PAUSE, 16_000, embedder=embedder, channels=True)
    with pytest.raises(InputError, match="has shape"):
        diarize(PAUSE[None, None], 16_000, embedder=embedder)


def test_stretches_of_a_long_recording_are_what_it_is_made_of(conversation, monkeypatch):
    monkeypatch.setattr(stretches, "STRETCH_S", 4.0)
    parts = list(stretches.stretches([conversation[:7], conversation[7:50_000], conversation[50_000:]]))
    np.testing.assert_array_equal(np.concatenate([samples for _, samples, _ in parts]), conversation)
    assert [start for start, _, _ in parts] == np.cumsum([0, *(len(samples) for _, samples, _ in parts[:-1])]).tolist()
    assert max(len(samples) for _, samples, _ in parts) <= 4 * 16_000 + 512 and len(parts) > 2


def test_windows_cover_a_span_evenly_and_a_short_span_is_one_window(monkeypatch):
    monkeypatch.setattr(diarization, "WINDOW_S", 1.5)
    monkeypatch.setattr(diarization, "STEP_S", 0.5)
    assert window_starts(80).tolist() == [0]
    assert window_starts(150).tolist() == [0]
    assert window_starts(160).tolist() == [0, 10]
    assert window_starts(250).tolist() == [0, 50, 100]


def test_a_change_of_speaker_has_to_be_worth_its_cost(monkeypatch):
    monkeypatch.setattr(diarization, "CHANGE_COST", 1.0)
    flicker = np.array([[1, 0], [1, 0], [0.4, 0.6], [1, 0], [1, 0]])
    assert smoothest(flicker).tolist() == [0] * 5
    assert smoothest(np.array([[1, 0]] * 3 + [[0, 1]] * 3)).tolist() == [0, 0, 0, 1, 1, 1]


def test_who_says_little_is_nobody_unless_as_many_are_asked_for():
    seconds = round(1 / FRAME_S)
    says = np.repeat([0, 1, 2], [60 * seconds, 2 * seconds, 30 * seconds])
    scores = np.eye(3)[says] + 0.5 * np.eye(3)[2]
    found = choose(scores, 1, 10)
    assert set(found) == {0, 2} and found[61 * seconds] == 2
    assert set(choose(scores, 3, 3)) == {0, 1, 2}
    assert set(choose(scores, 1, 1)) == {0}


def test_in_a_short_recording_a_twenty_fifth_of_the_speech_is_enough():
    second = round(1 / FRAME_S)
    scores = np.eye(2)[np.repeat([0, 1], [20 * second, second])]
    assert set(choose(scores, 1, 10)) == {0, 1}


def heard_of(windows: np.ndarray) -> Heard:
    """Windows of 1 s every 2 s: none overlaps another."""
    starts = 2.0 * np.arange(len(windows))
    times = np.stack([starts, starts + 1], axis=1)
    return Heard(times, times, unit_vectors(windows).astype(np.float32), 2.0 * len(windows))


def test_what_is_played_again_and_again_is_no_voice_of_its_own(monkeypatch):
    random = np.random.default_rng(2)
    speakers = random.normal(size=(2, 64))
    windows = np.repeat(speakers, 20, axis=0) + random.normal(size=(40, 64))
    again = np.tile(windows, (7, 1))
    assert len(voices_of(heard_of(windows), 1)) == len(voices_of(heard_of(again), 1)) == 2
    monkeypatch.setattr(diarization, "REPEATED", 2.0)
    assert len(voices_of(heard_of(again), 1)) > 2


def test_there_are_as_many_voices_as_are_asked_for():
    windows = np.random.default_rng(3).normal(size=(12, 16))
    for fewest in (2, 7, 12):
        assert len(voices_of(heard_of(windows), fewest)) >= fewest


def test_windows_that_overlap_go_by_pairs_and_never_by_threes():
    starts = np.array([0, 0.5, 1.0, 4, 6, 6.4])
    assert pairs_of(np.stack([starts, starts + 1], axis=1)).tolist() == [0, 0, 1, 2, 3, 3]


def test_the_end_of_a_span_is_where_the_voice_ends_and_the_recordings_end_is_kept():
    speech = np.repeat([0, 1, 0, 1], 40).astype(np.float32)
    (_, end), (start, last) = diarization._speech_spans(speech, 160 * 512)
    assert end == 80 * 512 + 480 - 1280 and start == 120 * 512 - 480 and last == 160 * 512


def test_certainty_is_a_share_of_each_frame():
    shares = certainty(np.array([[0.5, 0.5], [0.9, 0.1]]))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert shares[0, 0] == 0.5 and shares[1, 0] > 0.9


def test_frames_lie_in_the_speech():
    middles, spans = frames(np.array([[1.0, 1.2], [3.0, 3.01]]))
    np.testing.assert_allclose(middles, [1.025, 1.075, 1.125, 1.175, 3.025])
    assert spans.tolist() == [0, 0, 0, 0, 1]


def test_turns_of_one_speaker_with_a_short_pause_between_are_one_and_their_confidence_is_the_mean_over_time():
    turns = [Turn(0, 1, "a", 0.9), Turn(1.2, 4.2, "a", 0.5), Turn(4.3, 5, "b", 1.0), Turn(5.4, 7, "b", 1.0)]
    first, *others = joined(turns)
    assert first[:3] == (0, 4.2, "a") and first.confidence == pytest.approx(0.6)
    assert others == [Turn(4.3, 5, "b", 1.0), Turn(5.4, 7, "b", 1.0)]
