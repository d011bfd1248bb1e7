"""EER with and without trimming silence, on recordings as they are and with silence added to them.

    OMP_NUM_THREADS=1 python -m experiments.voice_activity data/audio/french_validation
    OMP_NUM_THREADS=1 python -m experiments.voice_activity data/audio/french_validation --per-speaker 7

The folder is one that `resample` made. Each recording gets up to 4 s of silence at either end, as long as a generator seeded with
its id says: digital silence, or white noise at -50 dBFS over the whole. Recordings that are digital silence, or that trimming
would refuse, are left out and counted; both columns are of the same trials.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from speakerprint import SpeakerEmbedder
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.voice_activity import NoSpeech
from speakerprint.corpora.resampling import read_audio
from speakerprint.evaluation.trials import equal_error_rate

SILENCE_S = 4
NOISE_RMS = 10 ** (-50 / 20)


def conditions(samples: np.ndarray, recording_id: str) -> dict[str, np.ndarray]:
    """The recording as it is and with silence at its ends, each (n_samples,) float32."""
    random = np.random.default_rng(list(recording_id.encode()))
    padded = np.pad(samples, random.integers(SILENCE_S * SAMPLE_RATE_HZ, size=2))
    noise = random.normal(scale=NOISE_RMS, size=len(padded)).astype(np.float32)
    return {"as recorded": samples, "digital silence added": padded, "quiet noise added": padded + noise}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="a folder that `resample` made")
    parser.add_argument("--model", type=Path, help="folder of a trained model; without it, the shipped one")
    parser.add_argument("--per-speaker", type=int, default=1000, help="take the first so many recordings of each")
    arguments = parser.parse_args()
    recordings, clips = read_audio(arguments.audio)
    chosen = recordings.groupby("speaker_id").cumcount() < arguments.per_speaker
    untouched = SpeakerEmbedder.load(arguments.model)
    embedders = {"untouched": untouched, "trimmed": SpeakerEmbedder(untouched.network, trim_silence=True)}
    speakers, refused, rows = [], 0, []
    for recording, clip, keep in zip(recordings.itertuples(), clips, chosen, strict=True):
        if not keep:
            continue
        embeddings = {}
        try:
            for condition, samples in conditions(decode(clip, recording.recording_id)[0], recording.recording_id).items():
                for column, embedder in embedders.items():
                    embeddings[condition, column] = embedder.embed(samples, SAMPLE_RATE_HZ)
        except NoSpeech:
            refused += 1
            continue
        rows.append(embeddings)
        speakers.append(recording.speaker_id)
    print(f"{len(rows)} recordings of {len(set(speakers))} speakers, {refused} refused; EER in %")
    eers = {key: 100 * equal_error_rate([row[key] for row in rows], speakers) for key in rows[0]}
    print(pd.Series(eers).unstack(sort=False).round(2).to_string())


if __name__ == "__main__":
    main()
