"""Log-mel features of a corpus in one ragged zarr store.

python -m stages.features demo_train
"""

import shutil
from typing import get_args

from speakerprint.corpora.features import extract_corpus
from speakerprint.params.role import Role
from speakerprint.params.section import read_section
from stages import run, write_json


def main(corpus: str) -> None:
    role = read_section(Role, "corpora", corpus, "role")
    for other in set(get_args(Role)) - {role}:  # what is left from before the role was changed must not be trained on
        shutil.rmtree(f"data/features/{other}/{corpus}", ignore_errors=True)
    out, unfinished = f"data/features/{role}/{corpus}", f"data/unfinished/features/{corpus}"
    report = extract_corpus(f"data/audio/{corpus}", out, unfinished)
    write_json(report, f"metrics/data/{corpus}.features.json")


if __name__ == "__main__":
    run(main)
