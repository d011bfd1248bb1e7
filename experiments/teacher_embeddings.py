"""What a peer hears in the training recordings, for the teachers' losses: data/given/teacher/PEER/CORPUS.parquet of each corpus.

    OMP_NUM_THREADS=1 .peers/bin/python -m experiments.teacher_embeddings french_train english_train    # ten recordings a second
    OMP_NUM_THREADS=1 .peers/bin/python -m experiments.teacher_embeddings french_train --speeds 0.9 1 1.1    # for sampling.speeds

`--model NAME=FOLDER` asks a model of this project in place of a peer: the shipped one hears more in whole, clean recordings than
its pupil in short and noisy ones.

The clips are what the `resample` stage wrote; the environment is that of experiments/peers.py, whose docstring says how to set it
up. A corpus whose file is there is left as it is: delete the file to embed it again.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.conditions import Waveform
from experiments.peers import REMEDY, System, peers, speakerprint_model
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.resample import resample
from speakerprint.corpora.resampling import read_audio
from speakerprint.errors import InputError
from speakerprint.training.teacher import TEACHER_PATH, write_teacher

AUDIO = Path("data/audio")


def at_speed(samples: Waveform, speed: float) -> Waveform:
    """A recording, (samples,), played `speed` times as fast, and so that much higher: (about samples / speed,)."""
    return samples if speed == 1 else resample(samples, round(SAMPLE_RATE_HZ * speed), SAMPLE_RATE_HZ)


def teach(system: System, corpus: str, speeds: list[float]) -> None:
    """Write the system's embeddings of a corpus's whole recordings. Raises InputError where it or the corpus cannot be had."""
    embed = system.load()
    recordings, clips = read_audio(AUDIO / corpus)
    ids = recordings["recording_id"].tolist()
    rows = []
    for name, clip in tqdm(zip(ids, clips, strict=True), f"{system.name}: {corpus}", len(ids), unit="recording", disable=None):
        samples = decode(clip, name)[0]
        rows += [embed(at_speed(samples, speed)) for speed in speeds]
    write_teacher(
        TEACHER_PATH / system.name / f"{corpus}.parquet", np.repeat(ids, len(speeds)).tolist(), np.stack(rows), speeds * len(ids)
    )


def find(peer: str, model: str | None, wheels: Path) -> System:
    """The peer of that name or, where it is given as NAME=FOLDER, the model. Raises InputError where there is no such model."""
    return speakerprint_model(model) if model else next(one for one in peers(wheels) if one.name == peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", help="of params.yaml, those that are trained on")
    parser.add_argument("--speeds", nargs="+", type=float, default=[1.0], help="times as fast as recorded, as in sampling.speeds")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--system", default="cam++", choices=[peer.name for peer in peers(Path())])
    asked.add_argument("--model", metavar="NAME=FOLDER", help="of this project, in place of a peer")
    parser.add_argument("--wheels", type=Path, default=Path(".peers/wheels"), help="folder of the peers' wheels")
    chosen = parser.parse_args()
    if min(chosen.speeds) <= 0:
        parser.error(f"--speeds {min(chosen.speeds):g}: a recording is heard at a speed above 0")
    for corpus in chosen.corpora:
        try:
            system = find(chosen.system, chosen.model, chosen.wheels)
            if (TEACHER_PATH / system.name / f"{corpus}.parquet").is_file():
                print(f"{corpus}: there already")
            else:
                teach(system, corpus, chosen.speeds)
        except ModuleNotFoundError as error:
            sys.exit(f"error: {error}; {REMEDY}")
        except InputError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
