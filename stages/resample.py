"""The selected recordings as 16 kHz mono, FLAC or WAV, in parquet shards.

python -m stages.resample demo_train
"""

from speakerprint.corpora.recordings import RecordingsFile
from speakerprint.corpora.resampling import resample_corpus
from speakerprint.params.resample import Resample
from speakerprint.params.section import read_section
from stages import run, write_json


def main(corpus: str) -> None:
    selection = RecordingsFile(f"data/selection/{corpus}.parquet")
    settings = read_section(Resample, "resample")
    report = resample_corpus(selection, f"data/audio/{corpus}", settings, f"data/unfinished/audio/{corpus}")
    write_json(report, f"metrics/data/{corpus}.resample.json")


if __name__ == "__main__":
    run(main)
