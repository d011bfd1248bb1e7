"""What "cannot tell" costs and saves: strangers who pass for one person, by what was done to both recordings.

    OMP_NUM_THREADS=1 python -m experiments.unfit_recordings data/audio/{french,english,locales,speechocean}_validation
    OMP_NUM_THREADS=1 python -m experiments.unfit_recordings data/audio/*_report --noise NOISE --only "^(full|.s|noise|tele|opus)"

The folders are what `resample` made; pairs are within a corpus. `doubted`: recordings that are called unfit.
`strangers`, `speakers`: pairs of two people and of one that reach the threshold of 1 % false accepts; `told`: those of them in
which neither recording is doubted. With two voices, the second half of each recording is of another speaker; strangers then have
neither voice in common. With --noise, ESC-10's sounds, the conditions of docs/protocol.md are among the rows.
Recordings in which little speech is found, which `verify` refuses, are left out.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.conditions import Waveform, add_noise, all_conditions, read_noises
from speakerprint import SpeakerEmbedder
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.voice_activity import NoSpeech
from speakerprint.corpora.resampling import read_audio

Damage = Callable[[Waveform, str], Waveform]  # of a recording and its id, as a condition is
TWO_VOICES = "two voices, half of each"
DIRECT_AFTER_S = 0.0025  # within which a reflection counts as direct sound


def clipped(samples: Waveform, random: np.random.Generator, fraction: float) -> Waveform:
    """So many of the samples at the level of the loudest."""
    level = np.quantile(np.abs(samples), 1 - fraction)
    return (np.clip(samples, -level, level) * (0.9 / max(level, 1e-9))).astype(np.float32)


def reverberant(samples: Waveform, random: np.random.Generator, direct_db: float, decay_s: float) -> Waveform:
    """In a room whose noise-like tail decays by 60 dB in decay_s, the direct sound so far above it."""
    time_s = np.arange(round(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = random.normal(size=len(time_s)) * 10 ** (-3 * time_s / decay_s) * (time_s >= DIRECT_AFTER_S)
    tail *= 10 ** (-direct_db / 20) / np.linalg.norm(tail)
    tail[0] = 1
    n = len(samples) + len(tail)
    heard = np.fft.irfft(np.fft.rfft(samples, n) * np.fft.rfft(tail, n), n)[: len(samples)]
    return (heard / max(1, np.abs(heard).max())).astype(np.float32)


def hissing(samples: Waveform, random: np.random.Generator, snr_db: float) -> Waveform:
    """With white noise."""
    return add_noise(samples, random.normal(size=len(samples)).astype(np.float32), snr_db)


def seeded(damage: Callable[..., Waveform], **how: float) -> Damage:
    """The same damage to the same recording: what it draws is drawn by the id."""
    return lambda samples, recording_id: damage(samples, np.random.default_rng(list(recording_id.encode())), **how)


DAMAGES: dict[str, Damage] = {
    "as recorded": lambda samples, recording_id: samples,
    **{f"{p:.0%} of the samples clipped": seeded(clipped, fraction=p) for p in (0.02, 0.05, 0.1, 0.25, 0.5)},
    **{
        f"room: direct sound at {db} dB, {s} s": seeded(reverberant, direct_db=db, decay_s=s)
        for db, s in ((10, 0.5), (5, 0.5), (0, 0.5), (0, 1.0), (-5, 0.8))
    },
    **{f"white noise at {db} dB": seeded(hissing, snr_db=db) for db in (20, 10, 0)},
}


def two_voices(samples: Waveform, other: Waveform) -> Waveform:
    """The first half of one recording, then the second of another."""
    return np.concatenate([samples[: len(samples) // 2], other[len(other) // 2 :]])


def hear(embedder: SpeakerEmbedder, folder: Path, per_speaker: int, damages: dict[str, Damage], two: bool) -> pd.DataFrame:
    """A row for each recording and damage: damage, speaker, guest (the second voice, or nobody), doubted, embedding."""
    recordings, clips = read_audio(folder)
    first = recordings.groupby("speaker_id").cumcount() < per_speaker
    rows = []
    before: dict[str, Waveform] = {}  # a recording of each speaker that was heard
    for recording, clip, keep in tqdm(
        zip(recordings.itertuples(), clips, first, strict=True), folder.name, len(first), disable=None
    ):
        if not keep:
            continue
        samples = decode(clip, recording.recording_id)[0]
        speaker, seed = recording.speaker_id, list(recording.recording_id.encode())
        given = [(name, "", damage(samples, recording.recording_id)) for name, damage in damages.items()]
        if two and (others := sorted(before.keys() - {speaker})):
            guest = others[np.random.default_rng(seed).integers(len(others))]
            given.append((TWO_VOICES, guest, two_voices(samples, before[guest])))
        before[speaker] = samples
        for name, guest, heard in given:
            try:
                embedding, doubts = embedder.embed_with_doubts(heard, SAMPLE_RATE_HZ)
            except NoSpeech:
                continue
            rows.append((name, speaker, guest, bool(doubts), embedding))
    return pd.DataFrame(rows, columns=["damage", "speaker", "guest", "doubted", "embedding"])


def passing(of_damage: pd.DataFrame, threshold: float) -> NDArray[np.int64]:
    """Of pairs of strangers, then of one speaker: how many there are, reach the threshold, and do so undoubted; (2, 3)."""
    embeddings = np.stack(of_damage["embedding"].to_list())
    speakers, guests, doubted = (of_damage[key].to_numpy() for key in ("speaker", "guest", "doubted"))
    first, second = np.triu_indices(len(speakers), 1)
    same = speakers[first] == speakers[second]
    shared = same | (speakers[first] == guests[second]) | (guests[first] == speakers[second])
    shared |= (guests[first] == guests[second]) & (guests[first] != "")
    passes = np.sum(embeddings[first] * embeddings[second], axis=1) >= threshold
    told = passes & ~doubted[first] & ~doubted[second]
    return np.array([[np.sum(kind), np.sum(passes & kind), np.sum(told & kind)] for kind in (~shared, same)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="+", type=Path, help="folders that `resample` made")
    parser.add_argument("--model", help="folder of a model; without it, the shipped one")
    parser.add_argument("--per-speaker", type=int, default=3, help="the first so many recordings of each")
    parser.add_argument("--noise", type=Path, help="ESC-10's sounds, <class>/*.ogg; with it, the conditions of `peers` as well")
    parser.add_argument("--only", default="", help="damages whose name has it, a regular expression")
    chosen = parser.parse_args()
    conditions = all_conditions(read_noises(chosen.noise)) if chosen.noise else []
    damages = DAMAGES | {condition.name: condition.apply for condition in conditions}
    names = [name for name in [*damages, TWO_VOICES] if re.search(chosen.only, name)]
    embedder = SpeakerEmbedder.load(chosen.model, "cpu", require_speech=True)
    given = {name: damage for name, damage in damages.items() if name in names}
    heard = [hear(embedder, folder, chosen.per_speaker, given, TWO_VOICES in names) for folder in chosen.audio]
    print("| % | doubted | strangers | told | speakers | told |\n|---|---|---|---|---|---|")
    for name in names:
        parts = [rows[rows["damage"] == name] for rows in heard]
        counts = np.sum([passing(part, embedder.threshold(0.01)) for part in parts if len(part)], axis=0)
        cells = [pd.concat(parts)["doubted"].mean(), *(counts[:, 1:] / counts[:, :1]).ravel()]
        print(f"| {name} | " + " | ".join(f"{100 * cell:.1f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
