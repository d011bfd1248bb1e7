"""The selected recordings as 16 kHz mono, FLAC or WAV, in parquet shards.

python -m stages.resample demo_train
"""

from speakerprint.corpora.recordings import RecordingsFile
from speakerprint.corpora.resampling import resample_corpus
from speakerprint.corpora.sharing import SharedFolder
from speakerprint.corpora.spool import Spool
from speakerprint.params.resample import Resample
from speakerprint.params.section import PositiveInt, read_section
from stages import run, still_to_come, write_json


def main(corpus: str) -> None:
    selection = RecordingsFile(f"data/selection/{corpus}.parquet")
    settings = read_section(Resample, "resample")
    least = read_section(PositiveInt, "corpora", corpus, "filter", "min_recordings_per_speaker")
    later = {name: RecordingsFile(f"data/selection/{name}.parquet") for name in still_to_come("resample")}
    with SharedFolder("data/unfinished/clips", corpus, later).at_work() as shared:
        report = resample_corpus(
            selection, f"data/audio/{corpus}", settings, f"data/unfinished/audio/{corpus}", Spool(shared, later), least
        )
    write_json(report, f"metrics/data/{corpus}.resample.json")


if __name__ == "__main__":
    run(main)
