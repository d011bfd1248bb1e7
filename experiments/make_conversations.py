"""Conversations made of recordings of single speakers: a WAV file and who speaks when (RTTM) for each.

    python -m experiments.make_conversations data/audio/*_validation --noise NOISE --output data/conversations/validation
    python -m experiments.make_conversations data/audio/*_report --noise NOISE --output data/conversations/report --report

The folders are what the `resample` stage wrote for the corpora of docs/protocol.md. A conversation is of speakers of one corpus,
and uses no second of a recording twice. How long turns, pauses and overlaps are comes from the sources in docs/diarize.md.
One conversation in three is as recorded, one in a simulated room, and one in a room with recorded noise: those sounds that
training may hear, or with --report those it may not. The same seed makes the same files.

--enrol N keeps the first N recordings of each speaker out of the conversation NN and writes them to NN/SPEAKER/.
"""

import argparse
import json
import sys
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from experiments.conditions import REPORT_NOISES, draw_noise
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.resample import resample
from speakerprint.audio.voice_activity import speech_spans
from speakerprint.corpora.resampling import read_audio
from speakerprint.errors import InputError

TUNING_NOISES = ("chainsaw", "dog", "fire", "rooster", "sea", "sneeze")
FRAME = SAMPLE_RATE_HZ // 100  # samples of 10 ms

# of the meetings of NIST RT06s, labelled by hand: stretches of one speaker alone, and of several (Anguera 2006, table 3.13)
TURN_MEAN_S, TURN_STD_S = 2.77, 4.22
OVERLAP_MEAN_S, OVERLAP_STD_S = 1.19, 1.03
PAUSE_MEDIAN_S, PAUSE_SIGMA = 0.36, 0.8  # the median of Czech dialogues (Weingartová et al. 2014); the spread is a choice
MOST_OVERLAP = 0.15  # of the speech, in a conversation
SHORTEST_TURN_S, LONGEST_S = 0.4, 180.0
BRIDGED_S = 0.3  # a shorter pause is part of a turn, as in NIST's Rich Transcription evaluations
SHORTEST_RUN_S = 0.25  # a shorter sound is no speech
AGREEMENT = 0.9  # of the frames of a recording that its level and silero-vad both call speech, or neither
LEVEL_DB, LEVEL_STD_DB = -26.0, 3.0  # of a speaker's recordings
DECAY_S, DIRECT_DB, SNR_DB = (0.2, 0.6), (0.0, 10.0), (5.0, 25.0)
SPEAKERS = (2, 8)
ROOMS = ("as recorded", "room", "room and noise")


@dataclass
class Piece:
    """A recording from its first speech to its last, (n_samples,), and where somebody speaks in it: (n_samples,) bool."""

    samples: NDArray[np.float32]
    speech: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, part: slice) -> "Piece":
        return Piece(self.samples[part], self.speech[part])


@dataclass
class Turn:
    """What a speaker says from a sample of the conversation on."""

    speaker: str
    start: int
    piece: Piece


@dataclass
class Stock:
    """What is left of a speaker's recordings."""

    pieces: deque[Piece] = field(default_factory=deque)

    def take(self, length: int, random: Generator) -> Piece | None:
        """About so many samples, cut where it is quietest nearby, of several recordings with pauses between; None of nothing."""
        taken: list[Piece] = []
        while self.pieces and (missing := length - sum(map(len, taken))) > 0:
            piece = self.pieces.popleft()
            if len(piece) - missing > SHORTEST_TURN_S * SAMPLE_RATE_HZ:
                at = quietest(piece.samples, missing)
                self.pieces.appendleft(piece[at:])
                piece = piece[:at]
            if taken:
                pause = round(skewed(random, PAUSE_MEDIAN_S, PAUSE_SIGMA) * SAMPLE_RATE_HZ)
                bridged = pause < BRIDGED_S * SAMPLE_RATE_HZ
                taken.append(Piece(np.zeros(pause, np.float32), np.full(pause, bridged)))
            taken.append(faded(piece))
        if not taken:
            return None
        return Piece(np.concatenate([p.samples for p in taken]), np.concatenate([p.speech for p in taken]))


# --- recordings ---------------------------------------------------------------------------------------------------------


def level_db(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """The level of each 10 ms, over 50 ms around it: (frames,) in dB."""
    n = len(samples) // FRAME
    power = np.square(samples[: n * FRAME].reshape(n, FRAME), dtype=np.float64).mean(axis=1)
    return 10 * np.log10(np.convolve(power, np.full(5, 0.2), "same") + 1e-10)


def spoken(samples: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a clean recording is loud enough to be speech, (frames of 10 ms,), short pauses included."""
    levels = level_db(samples)
    low, high = np.percentile(levels, [5, 95])
    return bridged(levels > max(low + 0.35 * (high - low), high - 35))


def bridged(speech: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Frames of 10 ms with pauses under BRIDGED_S called speech, then runs under SHORTEST_RUN_S not."""
    for value, shortest_s in ((False, BRIDGED_S), (True, SHORTEST_RUN_S)):
        edges = np.flatnonzero(np.diff(speech, prepend=not speech[0], append=not speech[-1]))
        for start, end in pairwise(edges):
            inside = start > 0 and end < len(speech)
            if speech[start] == value and end - start < 100 * shortest_s and (inside or value):
                speech[start:end] = not value
    return speech


def piece_of(samples: NDArray[np.float32]) -> Piece | None:
    """A recording ready to be used, at a set level; None where its level and silero-vad do not agree about where speech is."""
    speech = spoken(samples)
    other = np.zeros(len(speech), bool)
    for start, end in speech_spans(samples):
        other[start // FRAME : end // FRAME] = True
    if not speech.any() or np.mean(speech == bridged(other)) < AGREEMENT:
        return None
    first, last = np.flatnonzero(speech)[[0, -1]] * FRAME
    piece = Piece(samples[: len(speech) * FRAME], speech.repeat(FRAME))[first : last + FRAME]
    rms = np.sqrt(np.mean(np.square(piece.samples[piece.speech], dtype=np.float64)))
    return Piece(piece.samples * np.float32(10 ** (LEVEL_DB / 20) / rms), piece.speech)


def read_speakers(folder: Path) -> dict[str, list[Piece]]:
    """The usable recordings of each speaker of a corpus that `resample` wrote."""
    recordings, clips = read_audio(folder)
    found: dict[str, list[Piece]] = {}
    for recording, clip in zip(recordings.itertuples(), clips, strict=True):
        if piece := piece_of(decode(clip, recording.recording_id)[0]):
            found.setdefault(recording.speaker_id, []).append(piece)
    return found


# --- a conversation -----------------------------------------------------------------------------------------------------


def skewed(random: Generator, median: float, sigma: float) -> float:
    return float(np.exp(random.normal(np.log(median), sigma)))


def log_normal(random: Generator, mean: float, std: float) -> float:
    """A draw of the log-normal distribution of this mean and standard deviation."""
    variance = np.log1p((std / mean) ** 2)
    return float(random.lognormal(np.log(mean) - variance / 2, np.sqrt(variance)))


def quietest(samples: NDArray[np.float32], near: int) -> int:
    """The sample within 0.2 s of one where the recording is quietest."""
    first = max(0, near // FRAME - 20)
    return (first + int(np.argmin(level_db(samples)[first : near // FRAME + 20]))) * FRAME or near


def faded(piece: Piece) -> Piece:
    """Without clicks at its ends."""
    ramp = np.minimum(1, np.arange(1, len(piece) + 1) / (FRAME // 2), dtype=np.float32)
    return Piece(piece.samples * ramp * ramp[::-1], piece.speech)


def draw_turns(speakers: dict[str, list[Piece]], random: Generator) -> list[Turn]:
    """Turns until LONGEST_S, or until fewer than two speakers have anything left to say."""
    stocks = {name: Stock(deque(pieces[i] for i in random.permutation(len(pieces)))) for name, pieces in speakers.items()}
    talks = dict(zip(stocks, random.dirichlet(np.full(len(stocks), 4.0)), strict=True))
    overlapping = random.uniform(0, MOST_OVERLAP) * TURN_MEAN_S / OVERLAP_MEAN_S  # of the changes of speaker
    turns: list[Turn] = []
    ends = dict.fromkeys(stocks, 0)
    while len(waiting := [n for n in stocks if stocks[n].pieces and not (turns and n == turns[-1].speaker)]) > (not turns):
        chances = np.array([talks[name] for name in waiting])
        name = waiting[random.choice(len(waiting), p=chances / chances.sum())]
        length = max(SHORTEST_TURN_S, log_normal(random, TURN_MEAN_S, TURN_STD_S))
        piece = stocks[name].take(round(length * SAMPLE_RATE_HZ), random)
        assert piece is not None
        gap_s = skewed(random, PAUSE_MEDIAN_S, PAUSE_SIGMA)
        if random.random() < overlapping:
            gap_s = -log_normal(random, OVERLAP_MEAN_S, OVERLAP_STD_S)
        before = turns[-1].start if turns else 0
        start = max(max(ends.values()) + round(gap_s * SAMPLE_RATE_HZ), before, ends[name])
        if start + len(piece) > LONGEST_S * SAMPLE_RATE_HZ:
            break
        turns.append(Turn(name, start, piece))
        ends[name] = start + len(piece)
    return turns


def room(random: Generator, decay_s: float, direct_db: float) -> NDArray[np.float32]:
    """An impulse response: the direct sound, then noise that decays by 60 dB in `decay_s`, that many dB under it."""
    n = round(decay_s * SAMPLE_RATE_HZ)
    tail = random.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    tail[: SAMPLE_RATE_HZ // 400] = 0
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.square(tail).sum())
    tail[0] = 1
    return tail.astype(np.float32)


def mix(turns: list[Turn], where: str, noises: list[NDArray[np.float32]], random: Generator) -> NDArray[np.float32]:
    """The conversation as a microphone hears it, (n_samples,)."""
    n = max(turn.start + len(turn.piece) for turn in turns) + SAMPLE_RATE_HZ // 2
    heard = np.zeros(n, np.float32)
    decay_s = random.uniform(*DECAY_S)
    for name in sorted({turn.speaker for turn in turns}):
        said = np.zeros(n, np.float32)
        for turn in turns:
            if turn.speaker == name:
                said[turn.start : turn.start + len(turn.piece)] += turn.piece.samples
        if where != ROOMS[0]:
            said = fftconvolve(said, room(random, decay_s, random.uniform(*DIRECT_DB)))[:n]
        heard += np.float32(10 ** (random.normal(0, LEVEL_STD_DB) / 20)) * said
    if where == ROOMS[2]:
        noise = draw_noise(noises, n, str(random.integers(2**32)))
        rms = np.sqrt(np.mean(np.square(heard))) / np.sqrt(np.mean(np.square(noise)))
        heard += np.float32(rms * 10 ** (-random.uniform(*SNR_DB) / 20)) * noise
    return heard / max(1.0, float(np.abs(heard).max()) / 0.99)


def set_aside(speakers: dict[str, list[Piece]], number: int, folder: Path) -> dict[str, list[Piece]]:
    """Write so many recordings of each speaker to FOLDER/SPEAKER, and return the others."""
    for name, pieces in speakers.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, piece in enumerate(pieces[:number]):
            samples = piece.samples / max(1.0, float(np.abs(piece.samples).max()) / 0.99)
            soundfile.write(folder / name / f"{index}.wav", samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    return {name: pieces[number:] for name, pieces in speakers.items()}


def rttm(turns: list[Turn], name: str) -> str:
    """Who speaks when, a line a stretch of speech."""
    lines = []
    for turn in turns:
        edges = np.flatnonzero(np.diff(turn.piece.speech, prepend=False, append=False))
        for start, end in edges.reshape(-1, 2) / SAMPLE_RATE_HZ:
            if end - start < SHORTEST_RUN_S:  # what a cut has left
                continue
            at = turn.start / SAMPLE_RATE_HZ + start
            lines.append(f"SPEAKER {name} 1 {at:.3f} {end - start:.3f} <NA> <NA> {turn.speaker} <NA> <NA>")
    return "\n".join(lines) + "\n"


def overlap(turns: list[Turn]) -> float:
    """How much of the speech two or more speak at once."""
    count = np.zeros(max(turn.start + len(turn.piece) for turn in turns), np.int8)
    for turn in turns:
        count[turn.start : turn.start + len(turn.piece)] += turn.piece.speech
    return float((count > 1).sum() / (count > 0).sum())


def read_sounds(folder: Path, classes: tuple[str, ...]) -> list[NDArray[np.float32]]:
    """The recordings of classes of sounds; raises InputError where the folder lacks one of the classes."""
    found = {name: sorted((folder / name).glob("*.ogg")) for name in classes}
    if lacking := [name for name, paths in found.items() if not paths]:
        raise InputError(f"--noise {folder}: no {lacking[0]}/*.ogg; expected ESC-10's folders {', '.join(classes)}")
    paths = [path for paths in found.values() for path in paths]
    decoded = [decode(path.read_bytes(), str(path)) for path in paths]
    return [np.trim_zeros(resample(samples, rate_hz, SAMPLE_RATE_HZ)) for samples, rate_hz in decoded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, nargs="+", help="folders that `resample` made")
    parser.add_argument("--noise", type=Path, required=True, help="ESC-10's folder, a folder a class")
    parser.add_argument("--report", action="store_true", help="with the noises that are kept for the report")
    parser.add_argument("--number", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--enrol", type=int, default=0, help="recordings of each speaker to keep out of the conversation")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        noises = read_sounds(arguments.noise, REPORT_NOISES if arguments.report else TUNING_NOISES)
    except InputError as error:
        sys.exit(f"error: {error}")
    corpora = [(folder.name, read_speakers(folder)) for folder in arguments.audio]
    arguments.output.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.number):
        random = np.random.default_rng([arguments.seed, number])
        corpus, everybody = corpora[number % len(corpora)]
        speakers = {name: pieces for name, pieces in everybody.items() if len(pieces) > arguments.enrol}
        size = min(int(random.integers(SPEAKERS[0], SPEAKERS[1] + 1)), len(speakers))
        chosen = random.permutation(sorted(speakers))[:size]
        where = ROOMS[number // len(corpora) % len(ROOMS)]
        name = f"{number:02}"
        talking = {one: speakers[one] for one in chosen}
        if arguments.enrol:
            talking = set_aside(talking, arguments.enrol, arguments.output / name)
        turns = draw_turns(talking, random)
        samples = mix(turns, where, noises, random)
        soundfile.write(arguments.output / f"{name}.wav", samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        (arguments.output / f"{name}.rttm").write_text(rttm(turns, name))
        facts = {"corpus": corpus, "where": where, "speakers": len({turn.speaker for turn in turns}), "turns": len(turns)}
        facts |= {"duration_s": len(samples) / SAMPLE_RATE_HZ, "overlap": round(overlap(turns), 4)}
        (arguments.output / f"{name}.json").write_text(json.dumps(facts) + "\n")
        print(name, json.dumps(facts))


if __name__ == "__main__":
    main()
