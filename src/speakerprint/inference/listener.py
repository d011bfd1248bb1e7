"""Who is speaking now: a stream of sound in, turns as they begin and end out, in memory that does not grow.

What the constants are chosen by is in experiments/LOG.md: conversations made of validation speakers.
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.quality import StreamQuality
from speakerprint.audio.voice_activity import CHUNK, MIN_SPAN, PAD, SpeechDetector
from speakerprint.inference.diarization import LATE_S
from speakerprint.inference.embedder import Resampler, SpeakerEmbedder

if TYPE_CHECKING:
    from speakerprint.inference.gallery import Gallery

SPEECH_FROM, SPEECH_UNTIL = 0.5, 0.35  # probabilities where speech begins and ends
PAUSE_S = 0.2  # a shorter one, as silero-vad hears it, is none: it hears 0.3 s as about 0.2 s
LATE = round(LATE_S * SAMPLE_RATE_HZ)  # samples
WINDOW_S, STEP_S = 1.0, 0.25  # of the latest speech, and how often it is embedded
FIRST_WINDOW_S = 0.5  # of speech, after a pause
FITS = 0.5  # cosine of a window and a voice from which on it may be that voice's
LEARNED = 0.4  # and from which on the voice is learned from it
CHANGE_COST = 0.2  # of a change of speaker without a pause: so many cosines over windows
NEW_VOICE, ALIKE = 4, 0.5  # so many windows that fit no voice, but each other at this cosine, are a new one
ONE_VOICE = 0.7  # cosine of two voices' directions above which they are one
REMEMBERED = 60  # windows that fit no voice
MOST_VOICES = 32  # of more, the one that was silent longest is forgotten
AT_ONCE = SAMPLE_RATE_HZ  # samples


class Event(NamedTuple):
    """A speaker starts or ends a turn, in seconds from the stream's start: before the moment at which that is known.

    ``score``: of a speaker whom the gallery knows, that of `Gallery.identify`; of another, the cosine of the latest window and
    those before.
    """

    kind: Literal["start", "end"]
    time_s: float
    speaker: str
    score: float


@dataclass(eq=False)
class Voice:
    """A voice in the stream: the sum of its windows' embeddings, (dim,), and what it is called once somebody is told."""

    total: NDArray[np.float64]
    since_s: float  # when it began to be the likeliest
    heard_s: float  # when last
    lead: float = 0.0  # over the likeliest voice, 0 or less, in cosines
    label: str | None = None
    known: bool = False
    score: float = 0.0


class Window(NamedTuple):
    """A window that fits no voice: its embedding, when it was, and in which span of speech."""

    embedding: NDArray[np.float32]
    time_s: float
    span: int


class Voices:
    """The voices of a stream, found one window at a time; a gallery, where there is one, names them."""

    def __init__(self, gallery: "Gallery | None" = None, false_accept_rate: float = 0.01):
        self.gallery, self.false_accept_rate = gallery, false_accept_rate
        self.voices: list[Voice] = []
        self.unfit: deque[Window] = deque(maxlen=REMEMBERED)
        self.unknown = 0  # voices that were given a number
        self.span = 0

    def begin(self, time_s: float) -> None:
        """A pause has ended: whoever speaks now owes nothing to who spoke before."""
        self.span += 1
        for voice in self.voices:
            voice.lead, voice.since_s = 0.0, time_s

    def follow(self, embedding: NDArray[np.float32], time_s: float, start_s: float) -> Voice | None:
        """Whose the next window is, (dim,) at a time, in a span of speech that started then; None while it may be a new voice."""
        cosines = self._cosines(embedding)
        fits = bool(len(cosines)) and cosines.max() >= FITS
        if not fits:
            self.unfit.append(Window(embedding, time_s, self.span))
            if (found := self._from_gallery() or self._new(embedding)) is not None:
                self._lead(found, start_s)
                cosines, fits = self._cosines(embedding), True
        if not self.voices:
            return None
        best = self._judge(cosines, time_s)
        if cosines[best] > LEARNED:
            self._learn(self.voices[best], embedding, float(cosines[best]), time_s)
        return self._merged(self.voices[best]) if fits else None

    def nearest(self, embedding: NDArray[np.float32], time_s: float) -> Voice:
        """Whose a span is, of which that did not become sure: the likeliest voice's, or a new one's where there is none."""
        if not self.voices:
            self._add(Voice(embedding.astype(np.float64), time_s, time_s))
        return self.voices[int(self._cosines(embedding).argmax())]

    def tell(self, voice: Voice) -> str:
        """What a voice is called; it has a number from now on, if the gallery does not know it."""
        if voice.label is None:
            self.unknown += 1
            voice.label = f"unknown {self.unknown}"
        return voice.label

    def _cosines(self, embedding: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.array([voice.total @ embedding / np.linalg.norm(voice.total) for voice in self.voices])

    def _judge(self, cosines: NDArray[np.float64], time_s: float) -> int:
        """The voice with the highest sum of cosines, less CHANGE_COST a change (Viterbi 1967, the path's end alone)."""
        leads = np.array([voice.lead for voice in self.voices])
        for voice, behind in zip(self.voices, leads < leads.max() - CHANGE_COST, strict=True):
            if behind:
                voice.since_s = time_s  # had it spoken earlier, it would not be that far behind
        leads = np.maximum(leads, leads.max() - CHANGE_COST) + cosines
        for voice, lead in zip(self.voices, (leads - leads.max()).tolist(), strict=True):
            voice.lead = lead
        return int(leads.argmax())

    def _learn(self, voice: Voice, embedding: NDArray[np.float32], cosine: float, time_s: float) -> None:
        voice.total += embedding
        voice.heard_s = time_s
        if not voice.known:
            voice.score = cosine
            self._name(voice)

    def _name(self, voice: Voice) -> None:
        """Ask the gallery whose voice it is."""
        if self.gallery is None:
            return
        found = self.gallery.identify(voice.total, false_accept_rate=self.false_accept_rate)
        if found.speaker is not None:
            voice.label, voice.known, voice.score = found.speaker, True, found.score

    def _from_gallery(self) -> Voice | None:
        """A voice that the gallery knows by what fits no other in this span of speech."""
        if self.gallery is None:
            return None
        here = [window for window in self.unfit if window.span == self.span]
        found = Voice(np.sum([window.embedding for window in here], axis=0, dtype=np.float64), here[0].time_s, here[-1].time_s)
        self._name(found)
        if not found.known:
            return None
        self.unfit = deque((window for window in self.unfit if window.span != self.span), REMEMBERED)
        same = next((voice for voice in self.voices if voice.label == found.label), None)
        if same is None:
            self._add(found)
            return found
        same.total += found.total
        same.since_s = found.since_s
        return same

    def _new(self, embedding: NDArray[np.float32]) -> Voice | None:
        """A voice made of the windows that fit no other one, if enough of them are alike."""
        alike = [window for window in self.unfit if window.embedding @ embedding >= ALIKE]
        if len(alike) < NEW_VOICE:
            return None
        self.unfit = deque((window for window in self.unfit if window.embedding @ embedding < ALIKE), REMEMBERED)
        since_s = next(window.time_s for window in alike if window.span == self.span)
        found = Voice(np.sum([window.embedding for window in alike], axis=0, dtype=np.float64), since_s, alike[-1].time_s)
        self._name(found)
        self._add(found)
        return found

    def _add(self, voice: Voice) -> None:
        if len(self.voices) == MOST_VOICES:
            self.voices.remove(min(self.voices, key=lambda one: one.heard_s))
        self.voices.append(voice)

    def _lead(self, voice: Voice, start_s: float) -> None:
        """Put a voice before all others."""
        for one in self.voices:
            one.lead = -CHANGE_COST
        voice.lead, voice.since_s = 0.0, max(voice.since_s, start_s)

    def _merged(self, voice: Voice) -> Voice:
        """The voice, or the one that it turns out to be: of the same name, or too alike to be another."""
        for other in self.voices:
            cosine = voice.total @ other.total / (np.linalg.norm(voice.total) * np.linalg.norm(other.total))
            two_people = voice.known and other.known and voice.label != other.label
            if other is voice or two_people or (cosine < ONE_VOICE and (voice.label is None or voice.label != other.label)):
                continue
            kept, gone = sorted((voice, other), key=lambda one: (not one.known, self.voices.index(one)))
            kept.total += gone.total
            kept.lead, kept.since_s, kept.heard_s = voice.lead, voice.since_s, voice.heard_s
            self.voices.remove(gone)
            return kept
        return voice


class Listener:
    """Tells who speaks while they speak.

    >>> listener = Listener(48_000, gallery=Gallery.open("people", embedder), embedder=embedder)
    >>> for chunk in chunks:  # of any size, one every tenth of a second for example
    ...     for event in listener.hear(chunk):
    ...         print(event.kind, event.time_s, event.speaker)
    >>> listener.end()

    A speaker whom the gallery knows has their name, as `Gallery.identify` gives it at a false-accept rate, with as many enrolled
    as there are. The others are "unknown 1" and so on. Of what is heard it keeps the latest 10 s, and an embedding a voice.
    """

    def __init__(
        self,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        *,
        embedder: SpeakerEmbedder | None = None,
        gallery: "Gallery | None" = None,
        false_accept_rate: float = 0.01,
    ):
        """sample_rate_hz: of the chunks, which are resampled as one stream. embedder: by default the shipped model.

        Raises InputError for a rate that is not positive, and, when somebody speaks, for the gallery of another model.
        """
        self.embedder = SpeakerEmbedder.load() if embedder is None else embedder
        self.voices = Voices(gallery, false_accept_rate)
        self._resampler, self._detector, self._quality = Resampler(sample_rate_hz), SpeechDetector(), StreamQuality()
        self._held, self._held_from = np.zeros(0, np.float32), 0  # the latest samples, and which is their first
        self._at = 0  # samples that were judged
        self._start: int | None = None  # of the span of speech that goes on
        self._pause: int | None = None  # where speech may have ended
        self._last_end = self._next_window = 0
        self._window: NDArray[np.float32] | None = None  # the embedding of the latest of this span
        self._turn: Event | None = None  # that has started

    @property
    def speaker(self) -> str | None:
        """Who speaks now; None where nobody does, or who it is is not known yet."""
        return None if self._turn is None else self._turn.speaker

    @property
    def heard_s(self) -> float:
        """How much was heard, in seconds."""
        return self._at / SAMPLE_RATE_HZ

    @property
    def doubts(self) -> tuple[str, ...]:
        """What makes the latest minute unfit to be judged, see `audio.quality`: nothing, as a rule, and in the first 10 s."""
        return self._quality.doubts

    def hear(self, chunk: ArrayLike) -> list[Event]:
        """What the next samples bring to light.

        chunk: (n_samples,), or (n_samples, channels), whose channels are averaged: numbers from -1 to 1, or integers as of PCM.
        Raises InputError for samples that are not finite, and for another shape.
        """
        return self._hear(self._resampler.hear(chunk))

    def end(self) -> list[Event]:
        """What the end of the stream brings to light: a turn that goes on ends with it. Nothing can be heard after it."""
        events = self._hear(self._resampler.end())
        self._quality.end()
        for probability in self._detector.end():
            events += self._advance(float(probability))
        return events + self._silence(self._held_from + len(self._held) if self._pause is None else self._pause - LATE)

    def _hear(self, samples: NDArray[np.float32]) -> list[Event]:
        events = []
        for part in np.split(samples, range(AT_ONCE, len(samples), AT_ONCE)):
            self._held = np.concatenate([self._held, part])
            probabilities = self._detector.hear(part)
            self._quality.hear(part, probabilities)
            for probability in probabilities:
                events += self._advance(float(probability))
            keep = self._at - round((WINDOW_S + PAUSE_S) * SAMPLE_RATE_HZ) - PAD - CHUNK
            if keep > self._held_from:
                self._held, self._held_from = self._held[keep - self._held_from :], keep
        return events

    def _advance(self, probability: float) -> list[Event]:
        """Hear the next 32 ms, with this probability of speech in it."""
        here = self._at
        self._at += CHUNK
        if self._start is None:
            if probability < SPEECH_FROM:
                return []
            self._start, self._pause, self._window = max(self._last_end, here - PAD), None, None
            self._next_window = here + round(FIRST_WINDOW_S * SAMPLE_RATE_HZ)
            self.voices.begin(self._start / SAMPLE_RATE_HZ)
        elif probability >= SPEECH_FROM:
            self._pause = None
        elif probability < SPEECH_UNTIL:
            self._pause = here if self._pause is None else self._pause
            if here - self._pause >= PAUSE_S * SAMPLE_RATE_HZ:
                return self._silence(self._pause - LATE)
        if self._pause is None and self._at >= self._next_window:
            self._next_window = self._at + round(STEP_S * SAMPLE_RATE_HZ)
            return self._follow(self._at)
        return []

    def _follow(self, until: int) -> list[Event]:
        """Judge the window of speech up to a sample."""
        assert self._start is not None
        first = max(self._start, until - round(WINDOW_S * SAMPLE_RATE_HZ))
        features = log_mel(self._held[first - self._held_from : until - self._held_from])
        start_s = self._start / SAMPLE_RATE_HZ
        time_s = start_s if self._window is None else (first + until) / 2 / SAMPLE_RATE_HZ
        self._window = self.embedder.embed_frames([features])[0]
        voice = self.voices.follow(self._window, time_s, start_s)
        return [] if voice is None else self._speaks(voice, until / SAMPLE_RATE_HZ)

    def _speaks(self, voice: Voice, now_s: float) -> list[Event]:
        """The events of the fact that this voice speaks."""
        assert self._start is not None
        if self._turn is not None and self._turn.speaker == voice.label:
            self._turn = self._turn._replace(score=voice.score)
            return []
        label = self.voices.tell(voice)
        if self._turn is None:
            self._turn = Event("start", self._start / SAMPLE_RATE_HZ, label, voice.score)
            return [self._turn]
        change_s = min(max(voice.since_s, self._turn.time_s), now_s)
        ended = self._turn._replace(kind="end", time_s=change_s)
        self._turn = Event("start", change_s, label, voice.score)
        return [ended, self._turn]

    def _silence(self, end: int) -> list[Event]:
        """The span of speech, if there is one, has ended at a sample."""
        if self._start is None:
            return []
        events: list[Event] = []
        if end - self._start > MIN_SPAN:
            if self._window is None:
                events += self._follow(end)
            if self._turn is None and self._window is not None:
                events += self._speaks(self.voices.nearest(self._window, self._start / SAMPLE_RATE_HZ), end / SAMPLE_RATE_HZ)
        self._last_end = min(end + PAD, self._at)
        if self._turn is not None:
            events.append(self._turn._replace(kind="end", time_s=self._last_end / SAMPLE_RATE_HZ))
        self._start = self._pause = self._turn = None
        return events
