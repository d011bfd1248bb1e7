"""A recording between reading and embedding: what is to be embedded of it, and what is doubted.

A file of more than LONG_S is heard in stretches of a minute, embedded one by one: hours of it in flat memory.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import FRAMES_PER_SECOND, SAMPLE_RATE_HZ
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.log_mel import log_mel, windows
from speakerprint.audio.quality import doubts_of_many, measure, spoken_frames
from speakerprint.audio.stream import AudioStream
from speakerprint.audio.stretches import stretches
from speakerprint.audio.voice_activity import NoSpeech, refuse_little_speech, speech_spans, trim_silence
from speakerprint.inference import two_voices

if TYPE_CHECKING:
    from speakerprint.inference.embedder import SpeakerEmbedder

MIN_DURATION_S = 0.1
LONG_S, LONGEST_S = 300.0, 24 * 3600.0
MOST_SAMPLES = 2**34  # of all channels, at its own rate: twice a day of stereo at 48 kHz, minutes of decoding
ASKED_BYTES = 2**18  # a smaller file is never asked how long it is
UNSAID_BYTES = 2**23  # a larger file that does not say how long it is may be long

EmbedFrames = Callable[[Sequence[NDArray[np.float32]]], NDArray[np.float32]]


class Heard(NamedTuple):
    """A recording by name. ``clips`` are log-mel features, (frames, 80) each: of all of it, then of the parts of its speech.

    ``rows``, (1 + parts, dim), are their embeddings where it is too long for clips.
    """

    name: str
    clips: list[NDArray[np.float32]]
    doubts: list[str]
    speech_s: float = 0.0
    rows: NDArray[np.float32] | None = None


def hear(samples: NDArray[np.float32], spans: list[tuple[int, int]] | None, name: str, judge: bool) -> Heard:
    """A recording, (n_samples,) float32 at 16 kHz, with its spans of speech where they are known; judge: look for doubts."""
    features = log_mel(samples)
    if not judge:
        return Heard(name, [features], [])
    spans = speech_spans(samples) if spans is None else spans
    spoken = spoken_frames(features, spans)
    quality = measure(samples, spans, spoken)
    found = [] if quality is None else quality.doubts()
    return Heard(name, [features, *two_voices.parts(spoken)], found, len(spoken) / FRAMES_PER_SECOND)


def embed_heard(held: Sequence[Heard], embed_frames: EmbedFrames) -> list[tuple[NDArray[np.float32], tuple[str, ...]]]:
    """The embedding of each recording, (dim,), and all that is doubted of it."""
    embedded = embed_frames([clip for heard in held for clip in heard.clips])
    found, start = [], 0
    for heard in held:
        end = start + len(heard.clips)
        rows = embedded[start:end] if heard.rows is None else heard.rows
        found.append((rows[0], tuple(heard.doubts + two_voices.doubts(rows[1:], heard.speech_s))))
        start = end
    return found


def long_recording(path: str | Path) -> AudioStream | None:
    """A file that is to be heard in stretches, or None: also where it cannot be read or says that it is beyond MOST_SAMPLES.

    Whoever reads it as any other says what is wrong.
    """
    try:
        n_bytes = Path(path).stat().st_size
        if n_bytes < ASKED_BYTES:
            return None
        stream = AudioStream(path)
    except (OSError, UndecodableAudio):
        return None
    if stream.duration_s * stream.sample_rate_hz * stream.channels > MOST_SAMPLES:
        return None
    return stream if stream.duration_s > LONG_S or (not stream.duration_s and n_bytes > UNSAID_BYTES) else None


def hear_long(chunks: Iterable[NDArray[np.float32]], name: str, embedder: "SpeakerEmbedder", judge: bool) -> Heard:
    """A recording of any length, in chunks at 16 kHz: its embedding is the direction of the mean over its windows, as of others.

    Stretches without speech are left out where the embedder requires speech. Doubts are of its median stretch, and of the start
    of the speech in stretches all over it. Raises NoSpeech, and UndecodableAudio for more than LONGEST_S.
    """
    window = round(embedder.network.model.window_s * FRAMES_PER_SECOND)
    total, parts, found = np.zeros(embedder.embedding_dim, np.float32), [], []
    levels: set[float] = set()  # of samples: one is silence
    n_speech = 0
    for start, samples, spans in stretches(chunks):
        if start > LONGEST_S * SAMPLE_RATE_HZ:
            raise UndecodableAudio(name, f"lasts over {LONGEST_S / 3600:g} hours; cut it into parts")
        if len(levels) < 2:
            levels |= set(np.unique(samples)[:2].tolist())
        n_speech += sum(last - first for first, last in spans)
        if embedder.trim_silence and spans:
            samples, spans = trim_silence(samples, spans)
        unheard = not spans and (embedder.trim_silence or embedder.require_speech)
        if unheard or len(samples) < MIN_DURATION_S * SAMPLE_RATE_HZ:
            continue
        features = log_mel(samples)
        total += embedder.embed_frames(windows(features, window)).sum(axis=0)
        spoken = spoken_frames(features, spans)
        if judge and len(spoken) >= two_voices.LEAST_SPEECH_S * FRAMES_PER_SECOND:
            found.append(measure(samples, spans, spoken))
            parts.append(embedder.embed_frames([spoken[: two_voices.LONGEST_PART]])[0])
    if len(levels) < 2:
        raise NoSpeech(f"{name}: is digital silence; check how it was recorded")
    if embedder.trim_silence or embedder.require_speech:
        refuse_little_speech(n_speech, name)
    some = []
    if len(parts) > 1 and n_speech >= two_voices.MANY_FROM_S * SAMPLE_RATE_HZ:
        some = [parts[i] for i in np.unique(np.linspace(0, len(parts) - 1, two_voices.PARTS).round().astype(int))]
    rows = np.stack([total / np.linalg.norm(total), *some])
    return Heard(name, [], list(doubts_of_many(found)), n_speech / SAMPLE_RATE_HZ, rows)
