"""Who spoke when in a recording of several people: where there is speech, windows of it, clusters of their embeddings, turns.

What the constants are chosen by is in experiments/LOG.md: conversations made of validation speakers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from speakerprint.audio.dimensions import FRAMES_PER_SECOND, HOP_LENGTH, SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.quality import doubts_of_many, measure
from speakerprint.audio.stream import AudioStream
from speakerprint.audio.stretches import STRETCH_S, stretches
from speakerprint.audio.voice_activity import spans_of
from speakerprint.errors import InputError
from speakerprint.inference.embedder import SpeakerEmbedder, resampled
from speakerprint.inference.vectors import unit_vectors
from speakerprint.inference.voices import voices_in

if TYPE_CHECKING:
    from speakerprint.inference.gallery import Gallery

LATE_S = 0.08  # that a span of silero-vad ends after the voice does
WINDOW_S, STEP_S = 1.0, 0.5
CLUSTERED = 200  # pairs of windows, at most: of more, what the model of voices leaves out would become voices
REPEATED = 0.98  # cosine from which on a window is an earlier one played again
MOST_SPEAKERS = 10  # looked for where no number is given
LEAST_S, LEAST_SHARE = 3.0, 0.04  # of the speech: a voice with less than both is none
BRIDGED_S = 0.3  # a shorter pause between two turns of one speaker is part of the turn
FRAME_S = 0.05  # that one speaker is chosen for
CHANGE_COST = 0.5  # of a change of speaker: so many cosines over frames
SHARPNESS = 10.0  # of confidences: how fast a difference of cosines becomes certainty

Speakers = int | tuple[int, int] | None


class Turn(NamedTuple):
    """A stretch of speech of one speaker, in seconds from the recording's start.

    ``confidence``, 0 to 1, says how much nearer this speaker's voice is than that of any other in the recording.
    """

    start_s: float
    end_s: float
    speaker: str
    confidence: float


@dataclass(frozen=True)
class Diarization:
    """Who spoke when: turns in the order of their starts, and the embedding of each speaker, (embedding_dim,) of unit length.

    ``doubts`` is what makes the recording unfit to be judged, see `audio.quality`: then turns and names are often wrong.
    """

    turns: list[Turn]
    speakers: dict[str, NDArray[np.float32]]
    duration_s: float
    doubts: tuple[str, ...] = ()

    def to_rttm(self, name: str = "recording") -> str:
        """The turns in NIST's Rich Transcription Time Marked form, a line each; blanks in names become underlines."""
        of = "_".join(name.split())
        return "".join(
            f"SPEAKER {of} 1 {turn.start_s:.3f} {turn.end_s - turn.start_s:.3f} <NA> <NA> "
            f"{'_'.join(turn.speaker.split())} {turn.confidence:.3f} <NA>\n"
            for turn in self.turns
        )


class Heard(NamedTuple):
    """What was heard, times in seconds: speech (spans, 2), windows of it (n, 2), their embeddings (n, dim), what is doubted."""

    speech_s: NDArray[np.float64]
    windows_s: NDArray[np.float64]
    embeddings: NDArray[np.float32]
    duration_s: float
    doubts: tuple[str, ...] = ()


class Source(Protocol):
    """A recording in blocks, (n_samples, channels), as often as it is iterated."""

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def duration_s(self) -> float: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class Waveform:
    """A waveform as a source of blocks."""

    samples: np.ndarray  # (n_samples, channels)
    sample_rate_hz: int

    @property
    def channels(self) -> int:
        return self.samples.shape[1]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz

    def __iter__(self) -> Iterator[np.ndarray]:
        size = max(1, round(STRETCH_S * self.sample_rate_hz))
        return (self.samples[start : start + size] for start in range(0, len(self.samples), size))


def diarize(
    recording: str | Path | np.ndarray,
    sample_rate_hz: int | None = None,
    *,
    embedder: SpeakerEmbedder | None = None,
    n_speakers: Speakers = None,
    gallery: "Gallery | None" = None,
    false_accept_rate: float = 0.01,
    channels: bool = False,
) -> Diarization:
    """Tell who spoke when.

    recording: an audio file, or a waveform as `SpeakerEmbedder.embed` takes it, at `sample_rate_hz`. A file is read in pieces:
    memory hardly grows with its length. embedder: by default the shipped model. n_speakers: how many, or (fewest, most), where
    that is known. gallery: whose speakers are named where they are heard, as `Gallery.identify` does at `false_accept_rate`; the
    others are "unknown 1" and so on, without a gallery "speaker 1". channels: each channel is one voice, as in a call with a
    channel a side; speakers are "channel 1" and so on.
    A recording without speech has no turns.
    Raises InputError for what cannot be read, an impossible number of speakers, a single channel where each is to be a voice, and
    the gallery of another model.
    """
    allowed = _range(n_speakers)
    if channels and allowed is not None:
        raise InputError("found a number of speakers and separate channels, each of which is one speaker; give one of them")
    source = _source(recording, sample_rate_hz)
    if channels and source.channels == 1:
        name = "waveform" if isinstance(recording, np.ndarray) else recording
        raise InputError(f"{name}: has one channel, expected a channel for each speaker; leave out `channels` (--channels)")
    embedder = SpeakerEmbedder.load() if embedder is None else embedder
    with tqdm(desc="diarize", total=round(source.duration_s) or None, unit="s", disable=None) as progress:
        if channels:
            each = [hear(source, embedder, progress, channel) for channel in range(source.channels)]
            found = of_channels(each)
        else:
            found = of_voices(hear(source, embedder, progress), allowed)
    return found if gallery is None else named(found, gallery, false_accept_rate, keep_others=channels)


def _range(n_speakers: Speakers) -> tuple[int, int] | None:
    """The fewest and the most speakers there may be."""
    if n_speakers is None:
        return None
    fewest, most = (n_speakers, n_speakers) if isinstance(n_speakers, int) else n_speakers
    if not 1 <= fewest <= most:
        raise InputError(f"found {fewest} to {most} speakers, expected a number from 1, or a range such as 2-4")
    return fewest, most


def _source(recording: str | Path | np.ndarray, sample_rate_hz: int | None) -> Source:
    if isinstance(recording, str | Path):
        try:
            return AudioStream(recording)
        except OSError as error:
            raise InputError(f"{recording}: cannot be read ({error.strerror}); check the name and its permissions") from None
    if sample_rate_hz is None:
        raise InputError("a waveform was given without its sample rate; give both")
    samples = np.asarray(recording)
    if samples.ndim not in (1, 2):
        raise InputError(f"waveform: has shape {samples.shape}, expected (samples,) or (samples, channels)")
    return Waveform(samples[:, None] if samples.ndim == 1 else samples, sample_rate_hz)


# --- hearing --------------------------------------------------------------------------------------------------------------


def hear(source: Source, embedder: SpeakerEmbedder, progress: "tqdm[None]", channel: int | None = None) -> Heard:
    """The speech of a recording, or of one of its channels, and the embeddings of windows of it."""
    blocks = (block if channel is None else block[:, channel] for block in source)
    speech, windows, embeddings, measured, end = [], [], [], [], 0
    for start, samples, spans in stretches(resampled(blocks, source.sample_rate_hz), _speech_spans):
        spoken = [log_mel(samples[first:last]) for first, last in spans]
        measured.append(measure(samples, spans, np.concatenate(spoken)) if spoken else None)
        for (first, last), features in zip(spans, spoken, strict=True):
            speech.append((start + first, start + last))
            at = window_starts(len(features))
            length = min(len(features), round(WINDOW_S * FRAMES_PER_SECOND))
            embeddings.append(embedder.embed_frames([features[frame : frame + length] for frame in at]))
            starts = start + first + HOP_LENGTH * at
            windows.append(np.stack([starts, starts + HOP_LENGTH * length], axis=1))
        end = start + len(samples)
        progress.update(len(samples) // SAMPLE_RATE_HZ)
    return Heard(
        np.array(speech, float).reshape(-1, 2) / SAMPLE_RATE_HZ,
        np.concatenate([np.empty((0, 2)), *windows]) / SAMPLE_RATE_HZ,
        np.concatenate([np.empty((0, embedder.embedding_dim), np.float32), *embeddings]),
        end / SAMPLE_RATE_HZ,
        doubts_of_many(measured),
    )


def _speech_spans(probabilities: NDArray[np.float32], n_samples: int) -> list[tuple[int, int]]:
    late = round(LATE_S * SAMPLE_RATE_HZ)
    spans = spans_of(probabilities, n_samples)
    return [(start, end if end == n_samples else end - late) for start, end in spans]


def window_starts(n_frames: int) -> NDArray[np.int64]:
    """The first frames of the windows that cover a span of speech evenly, at most STEP_S apart."""
    free = max(0, n_frames - round(WINDOW_S * FRAMES_PER_SECOND))
    return np.linspace(0, free, 1 + math.ceil(free / (STEP_S * FRAMES_PER_SECOND))).round().astype(np.int64)


# --- who it was -----------------------------------------------------------------------------------------------------------


def of_voices(heard: Heard, allowed: tuple[int, int] | None = None) -> Diarization:
    """Speakers by how their windows sound. allowed: the fewest and the most."""
    if not len(heard.embeddings):
        return Diarization([], {}, heard.duration_s)
    fewest, most = (1, MOST_SPEAKERS) if allowed is None else allowed
    voices = voices_of(heard, fewest)
    frames_s, span_of = frames(heard.speech_s)
    scores = frame_scores(heard, frames_s, heard.embeddings @ voices.T)
    chosen = choose(scores, fewest, most)
    numbers = {int(voice): number for number, voice in enumerate(dict.fromkeys(chosen.tolist()), start=1)}
    certain = certainty(scores[:, list(numbers)])
    turns = []
    edges = np.flatnonzero(np.diff(chosen, prepend=-1, append=-1) | np.diff(span_of, prepend=-1, append=-1))
    for first, last in pairwise(edges):
        start_s, end_s = heard.speech_s[span_of[first]]
        if first and span_of[first - 1] == span_of[first]:
            start_s = frames_s[first] - FRAME_S / 2
        if last < len(chosen) and span_of[last] == span_of[first]:
            end_s = frames_s[last] - FRAME_S / 2
        number = numbers[int(chosen[first])]
        turns.append(Turn(float(start_s), float(end_s), f"speaker {number}", float(certain[first:last, number - 1].mean())))
    speakers = {f"speaker {n}": voices[voice] for voice, n in numbers.items()}
    return Diarization(joined(turns), speakers, heard.duration_s, heard.doubts)


def of_channels(each: Sequence[Heard]) -> Diarization:
    """A speaker for each channel in which there is speech."""
    turns, speakers, doubts = [], {}, []
    for number, heard in enumerate(each, start=1):
        if len(heard.embeddings):
            turns += [Turn(start_s, end_s, f"channel {number}", 1.0) for start_s, end_s in heard.speech_s.tolist()]
            speakers[f"channel {number}"] = _direction(heard.embeddings)
            doubts += [f"channel {number}: {doubt}" for doubt in heard.doubts]
    return Diarization(sorted(joined(turns)), speakers, max(heard.duration_s for heard in each), tuple(doubts))


def voices_of(heard: Heard, fewest: int) -> NDArray[np.float32]:
    """The voices among the windows: (voices, dim), each of unit length. Of many pairs of windows, an even choice is clustered."""
    pairs = pairs_of(heard.windows_s)
    chosen = np.isin(pairs, np.linspace(0, pairs[-1], min(int(pairs[-1]) + 1, CLUSTERED)).round())
    windows, pairs = heard.embeddings[chosen], pairs[chosen]
    new = ~np.triu(windows @ windows.T >= REPEATED, 1).any(axis=0)
    windows, groups = windows[new], np.unique(pairs[new], return_inverse=True)[1]
    if groups[-1] + 1 < fewest:
        groups = np.arange(len(windows))
    labels = voices_in(windows, groups, fewest, max(fewest, MOST_SPEAKERS))
    sums = np.stack([windows[labels == label].sum(axis=0) for label in range(labels.max() + 1)])
    return unit_vectors(sums).astype(np.float32)


def pairs_of(windows_s: NDArray[np.float64]) -> NDArray[np.intp]:
    """Windows (n, 2), in seconds, by twos that overlap: the number of each one's pair, (n,)."""
    pairs = np.zeros(len(windows_s), np.intp)
    alone = True
    for window in range(1, len(windows_s)):
        alone = not (alone and windows_s[window, 0] < windows_s[window - 1, 1])
        pairs[window] = pairs[window - 1] + alone
    return pairs


def _direction(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    return unit_vectors(embeddings.sum(axis=0)[None])[0].astype(np.float32)


def frames(speech_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The middles of frames of FRAME_S that lie in spans of speech (spans, 2), and the span of each."""
    parts = [np.arange(start_s + FRAME_S / 2, max(end_s, start_s + FRAME_S), FRAME_S) for start_s, end_s in speech_s]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def frame_scores(heard: Heard, frames_s: NDArray[np.float64], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """The scores of windows (n, voices) at frames (m,): (m, voices), means of the windows that a frame lies in.

    A window weighs the more the nearer its middle is.
    """
    sums, weights = np.zeros((len(frames_s), scores.shape[1])), np.zeros((len(frames_s), 1))
    first, last = (np.searchsorted(frames_s, heard.windows_s[:, side]) for side in (0, 1))
    for window, (start, end) in enumerate(zip(first, last, strict=True)):
        middle = heard.windows_s[window].mean()
        half = (heard.windows_s[window, 1] - heard.windows_s[window, 0]) / 2
        weight = 1.01 - np.abs(frames_s[start:end] - middle)[:, None] / half
        sums[start:end] += weight * scores[window]
        weights[start:end] += weight
    return sums / np.maximum(weights, 1e-9)


def smoothest(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The voice of each frame, (m,): the highest sum of scores (m, voices), less CHANGE_COST a change (Viterbi 1967)."""
    best, came_from = scores[0], np.zeros(scores.shape, np.int64)
    own = np.arange(scores.shape[1])
    for frame in range(1, len(scores)):
        leader = int(best.argmax())
        stays = best >= best[leader] - CHANGE_COST
        came_from[frame] = np.where(stays, own, leader)
        best = np.where(stays, best, best[leader] - CHANGE_COST) + scores[frame]
    path = np.empty(len(scores), np.int64)
    path[-1] = best.argmax()
    for frame in range(len(scores) - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return path


def choose(scores: NDArray[np.float64], fewest: int, most: int) -> NDArray[np.int64]:
    """The voice of each frame, (m,), by scores (m, voices): without those that say little, and at most the given number."""
    kept = np.arange(scores.shape[1])
    least = min(LEAST_S / FRAME_S, LEAST_SHARE * len(scores))
    while True:
        chosen = smoothest(scores[:, kept])
        counts = np.bincount(chosen, minlength=len(kept))
        if len(kept) <= fewest or (len(kept) <= most and counts.min() >= least):
            return kept[chosen]
        kept = np.delete(kept, counts.argmin())


def certainty(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """How probable each voice is in each frame, (m, voices), if no other is heard."""
    odds = np.exp(SHARPNESS * (scores - scores.max(axis=1, keepdims=True)))
    return odds / odds.sum(axis=1, keepdims=True)


def joined(turns: Sequence[Turn]) -> list[Turn]:
    """Turns of one speaker with less than BRIDGED_S between them as one."""
    found: list[Turn] = []
    for turn in turns:
        last = found[-1] if found else None
        if last is not None and last.speaker == turn.speaker and turn.start_s - last.end_s < BRIDGED_S:
            own, more = last.end_s - last.start_s, turn.end_s - turn.start_s
            mean = (own * last.confidence + more * turn.confidence) / (own + more)
            found[-1] = Turn(last.start_s, turn.end_s, turn.speaker, mean)
        else:
            found.append(turn)
    return found


def named(found: Diarization, gallery: "Gallery", false_accept_rate: float, keep_others: bool = False) -> Diarization:
    """With the names of those whom a gallery knows at a false-accept rate; two voices of one name are one speaker.

    The others are "unknown 1" and so on, or keep what they are called.
    """
    names: dict[str, str] = {}
    unknown = 0
    for speaker, embedding in found.speakers.items():
        known = gallery.identify(embedding, false_accept_rate=false_accept_rate).speaker
        if known is None and not keep_others:
            unknown += 1
        names[speaker] = known or (speaker if keep_others else f"unknown {unknown}")
    same: dict[str, list[NDArray[np.float32]]] = {}
    for speaker, embedding in found.speakers.items():
        same.setdefault(names[speaker], []).append(embedding)
    speakers = {name: _direction(np.stack(embeddings)) for name, embeddings in same.items()}
    turns = [turn._replace(speaker=names[turn.speaker]) for turn in found.turns]
    return replace(found, turns=joined(turns), speakers=speakers)
