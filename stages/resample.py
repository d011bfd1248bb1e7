"""The selected recordings as 16 kHz mono, FLAC or WAV, in parquet shards.

python -m stages.resample demo_train
"""

from speakerprint.audio import resample_corpus
from speakerprint.params import load_params
from speakerprint.recordings import RecordingsFile
from stages import run, write_json


def main(corpus: str) -> None:
    params = load_params()
    selection = RecordingsFile(f"data/selection/{corpus}.parquet")
    report = resample_corpus(selection, f"data/audio/{corpus}", params.resample, f"data/unfinished/audio/{corpus}")
    write_json(report, f"metrics/data/{corpus}.resample.json")


if __name__ == "__main__":
    run(main)
