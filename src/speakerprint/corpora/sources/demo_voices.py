"""Synthetic voices as a folder for each speaker, to try commands with: those of the embedded corpus, where it is quiet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.corpora.sources import espeak
from speakerprint.errors import InputError
from speakerprint.files import whole_file

SENTENCES = (
    "The ferry leaves the harbour at half past nine, unless the wind is too strong.",
    "My neighbour planted three apple trees behind the old garage last spring.",
    "Please send me the minutes of the meeting before you go on holiday.",
    "Nobody knew why the lights in the library had been on all night.",
    "We took the early train, had breakfast on board, and arrived well rested.",
    "The recipe asks for two lemons, a little honey, and a lot of patience.",
)
SIGNAL_TO_NOISE_DB = (15, 30)  # drawn for each recording


def write_voices(folder: str | Path, split: str, names: Sequence[str], seed: int) -> None:
    """Write six recordings of as many synthetic speakers as there are names: folder/NAME/1.mp3 and so on, 16 kHz mono.

    split: whose speakers, "train", "dev" or "test"; no speaker is in two. The same arguments give the same bytes. Raises
    InputError for an unknown split, or if eSpeak NG cannot be used.
    """
    if split not in espeak.SPLITS:
        raise InputError(f"split {split!r}; expected one of {', '.join(espeak.SPLITS)}")
    for index, name in enumerate(names):
        speaker = espeak.draw_speaker(seed, split, index)
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        for number, sentence in enumerate(SENTENCES, start=1):
            waveform = _record(speaker, sentence, np.random.default_rng([seed, espeak.SPLITS.index(split), index, number]))
            with whole_file(Path(folder, name, f"{number}.mp3")) as part:
                soundfile.write(part, waveform, SAMPLE_RATE_HZ, format="MP3")


def _record(speaker: espeak.Speaker, sentence: str, random: np.random.Generator) -> np.ndarray:
    """(n_samples,) at 16 kHz of a sentence in the speaker's voice of the day, with a little white noise."""
    spoken = espeak.speak(
        sentence,
        speaker.voice,
        rate_wpm=round(speaker.rate_wpm * random.uniform(0.9, 1.1) / speaker.resonance),  # playing it faster raises that, too
        pitch=speaker.pitch + int(random.integers(-4, 5)),
        pitch_range=speaker.pitch_range,
    )
    waveform = soxr.resample(spoken, espeak.ESPEAK_SAMPLE_RATE_HZ * speaker.resonance, SAMPLE_RATE_HZ)
    noise = np.sqrt(np.mean(waveform**2)) * 10 ** (-random.uniform(*SIGNAL_TO_NOISE_DB) / 20)
    waveform = waveform + noise * random.standard_normal(len(waveform))
    return 0.5 * waveform / np.abs(waveform).max()
