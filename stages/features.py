"""Log-mel features of a corpus in one ragged zarr store.

python -m stages.features demo_train
"""

import shutil

from speakerprint.features import extract_corpus
from speakerprint.params import corpus_params, load_params
from stages import run, write_json


def main(corpus: str) -> None:
    params = load_params()
    role = corpus_params(params, corpus).role
    for other in {"train", "noise", "evaluate"} - {role}:  # what is left from before the role was changed must not be trained on
        shutil.rmtree(f"data/features/{other}/{corpus}", ignore_errors=True)
    out, unfinished = f"data/features/{role}/{corpus}", f"data/unfinished/features/{corpus}"
    report = extract_corpus(f"data/audio/{corpus}", out, unfinished)
    write_json(report, f"metrics/data/{corpus}.features.json")


if __name__ == "__main__":
    run(main)
