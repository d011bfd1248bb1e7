"""Who is speaking now, on streams put together from three CC0 clips of two speakers: ann twice, bob once."""

import numpy as np
import pytest
import soxr

from speakerprint import Gallery, Listener
from speakerprint.errors import InputError
from speakerprint.inference import listener
from speakerprint.inference.listener import Voices
from tests.audio.test_quality import echoing
from tests.inference.conftest import PAUSE


def events_of(heard, samples, size):
    """Events, each with how much had been heard when it was told."""
    told = []
    for start in range(0, len(samples), size):
        told += [(event, heard.heard_s) for event in heard.hear(samples[start : start + size])]
    return told + [(event, heard.heard_s) for event in heard.end()]


@pytest.fixture(scope="module")
def told(conversation, embedder):
    return events_of(Listener(embedder=embedder), conversation, 1_600)


def speakers_of(told):
    names = [event.speaker for event, _ in told if event.kind == "start"]
    return [name for index, name in enumerate(names) if index == 0 or name != names[index - 1]]


@pytest.mark.slow
def test_a_voice_that_comes_back_has_the_number_it_had(told):
    assert speakers_of(told) == ["unknown 1", "unknown 2", "unknown 1"]


def test_every_start_has_its_end_before_the_next(told):
    events = [event for event, _ in told]
    for start, end in zip(events[::2], events[1::2], strict=True):
        assert (start.kind, end.kind) == ("start", "end") and start.speaker == end.speaker and start.time_s <= end.time_s
    times = [event.time_s for event in events]
    assert times == sorted(times)


def test_a_start_is_told_within_two_seconds_and_never_before_it(told):
    for event, heard_s in told:
        assert event.time_s <= heard_s
        assert event.kind == "end" or heard_s - event.time_s < 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_turns"), [("ann-1", 2), ("bob", 1)])  # ann pauses for a third of a second
def test_a_turn_ends_where_the_voice_does_and_at_a_pause_of_a_third_of_a_second(name, n_turns, clips, embedder):
    samples = np.concatenate([clips[name], PAUSE])
    frames = np.square(samples[: len(samples) // 160 * 160].reshape(-1, 160)).mean(axis=1)
    loud = np.flatnonzero(frames > 10**-3.5 * np.percentile(frames, 95))
    ends = [event.time_s for event, _ in events_of(Listener(embedder=embedder), samples, 1_600) if event.kind == "end"]
    assert len(ends) == n_turns and ends[-1] == pytest.approx((loud[-1] + 1) / 100, abs=0.05)


@pytest.mark.slow
def test_the_size_of_the_chunks_changes_nothing(told, conversation, embedder):
    for size in (len(conversation), 777):
        assert [event for event, _ in events_of(Listener(embedder=embedder), conversation, size)] == [event for event, _ in told]


@pytest.mark.slow
def test_integers_at_another_rate_are_heard_as_the_same_stream(told, conversation, embedder):
    faster = (32_767 * np.clip(soxr.resample(conversation, 16_000, 48_000), -1, 1)).astype(np.int16)
    again = events_of(Listener(48_000, embedder=embedder), faster[:, None], 4_800)
    assert speakers_of(again) == speakers_of(told)


@pytest.mark.slow
def test_who_is_enrolled_is_named_and_who_is_not_is_numbered(conversation, clips, embedder, tmp_path):
    gallery = Gallery.open(tmp_path / "people", embedder)
    gallery.enrol("bob", embedder.embed(clips["bob"], 16_000)[None], ["bob.ogg"])
    heard = Listener(embedder=embedder, gallery=gallery)
    told = events_of(heard, conversation, 1_600)
    assert speakers_of(told) == ["unknown 1", "bob", "unknown 1"]
    late_s = [heard_s - event.time_s for event, heard_s in told if event.kind == "start" and event.speaker == "bob"]
    assert late_s[0] < 1.5
    assert all(event.score >= gallery.threshold() for event, _ in told if event.speaker == "bob")


@pytest.mark.slow
def test_a_stream_that_echoes_is_doubted_after_ten_seconds_and_no_more_once_it_does_not(conversation, embedder):
    heard = Listener(embedder=embedder)
    heard.hear(conversation)
    assert list(heard.doubts) == []
    heard = Listener(embedder=embedder)
    heard.hear(echoing(conversation, -5)[:150_000])
    assert list(heard.doubts) == []
    heard.hear(echoing(conversation, -5)[150_000:])
    assert [doubt.partition(":")[0] for doubt in heard.doubts] == ["it echoes or is noisy"]
    for _ in range(6):
        heard.hear(conversation)
    assert list(heard.doubts) == []


def test_a_short_stream_is_judged_at_its_end(clips, embedder):
    heard = Listener(embedder=embedder)
    heard.hear(echoing(clips["bob"], -5))
    assert list(heard.doubts) == []
    heard.end()
    assert len(heard.doubts) == 1


def test_the_one_who_speaks_is_known_while_they_do(clips, embedder):
    heard = Listener(embedder=embedder)
    assert heard.speaker is None
    heard.hear(clips["bob"][:48_000])
    assert heard.speaker == "unknown 1" and heard.heard_s == pytest.approx(3, abs=0.04)
    heard.hear(PAUSE)
    assert heard.speaker is None


def test_without_speech_nothing_happens_and_memory_stays_flat(embedder):
    heard = Listener(embedder=embedder)
    noise = np.random.default_rng(0).normal(scale=0.001, size=16_000 * 20).astype(np.float32)
    assert events_of(heard, noise, 16_000) == []
    assert len(heard._held) < 3 * 16_000


def test_what_cannot_be_heard_is_refused(embedder):
    with pytest.raises(InputError, match="sample rate is 0 Hz"):
        Listener(0, embedder=embedder)
    with pytest.raises(InputError, match="not finite"):
        Listener(embedder=embedder).hear(np.array([np.nan], np.float32))


# --- voices, by windows whose embeddings are drawn around a direction


def windows(direction, number, spread=0.05):
    draws = np.random.default_rng(number).normal(size=(number, 8)) * spread
    rows = np.eye(8)[direction] + draws
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def follow(voices, rows, start_s):
    """The labels of a span's windows, every quarter of a second."""
    voices.begin(start_s)
    found = [voices.follow(row, start_s + index / 4, start_s) for index, row in enumerate(rows)]
    return [None if voice is None else voices.tell(voice) for voice in found]


def test_a_new_voice_takes_four_windows_and_an_old_one_takes_one():
    voices = Voices()
    assert follow(voices, windows(0, 6), 0) == [None] * 3 + ["unknown 1"] * 3
    assert follow(voices, windows(1, 6), 5) == [None] * 3 + ["unknown 2"] * 3
    assert follow(voices, windows(0, 3), 10) == ["unknown 1"] * 3


def test_a_change_within_a_span_is_from_where_it_began():
    voices = Voices()
    follow(voices, windows(0, 6), 0)
    follow(voices, windows(1, 6), 5)
    voices.begin(10)
    for index, row in enumerate([*windows(0, 5), *windows(1, 5)]):
        last = voices.follow(row, 10 + index / 4, 10)
    assert last is not None and voices.tell(last) == "unknown 2"
    assert last.since_s == pytest.approx(11.25, abs=0.26)


def test_two_voices_that_become_one_keep_the_first_number():
    voices = Voices()
    follow(voices, windows(0, 5), 0)
    follow(voices, windows(1, 5), 5)
    voices.voices[1].total = voices.voices[0].total + 0.1 * voices.voices[1].total
    assert follow(voices, windows(0, 2), 10) == ["unknown 1"] * 2 and len(voices.voices) == 1


def test_of_too_many_voices_the_one_that_was_silent_longest_is_forgotten(monkeypatch):
    monkeypatch.setattr(listener, "MOST_VOICES", 2)
    voices = Voices()
    for direction in range(3):
        follow(voices, windows(direction, 5), 5 * direction)
    assert len(voices.voices) == 2
    assert follow(voices, windows(0, 5), 20)[-1] == "unknown 4"
