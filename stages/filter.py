"""Which recordings of a corpus are used, by votes, speaker, duration, language and a list of exclusions; opens no audio.

python -m stages.filter demo_train
"""

import numpy as np
import pyarrow as pa

from speakerprint.corpora.languages import read_languages
from speakerprint.corpora.recordings import RecordingsFile, write_recordings
from speakerprint.corpora.selection import choose, read_exclude_list
from speakerprint.params.filter import Filter
from speakerprint.params.section import Fraction, read_section
from stages import run, write_json


def main(corpus: str) -> None:
    pa.set_memory_pool(pa.system_memory_pool())  # which keeps less of what is freed than Arrow's own
    recordings = RecordingsFile(f"data/recordings/{corpus}/recordings.parquet")
    settings = read_section(Filter, "corpora", corpus, "filter")
    min_probability = read_section(Fraction, "language", "min_probability")
    languages = read_languages(f"data/languages/{corpus}.parquet")
    languages = languages[languages["probability"] >= min_probability]
    excluded = read_exclude_list(settings.exclude, recordings) if settings.exclude else ()
    kept, report = choose(recordings, settings, languages, excluded)
    of_row = iter(kept)
    selection = (chunk[np.fromiter(of_row, bool, len(chunk))] for chunk in recordings)
    write_recordings(selection, f"data/selection/{corpus}.parquet")
    write_json(report, f"metrics/data/{corpus}.filter.json")


if __name__ == "__main__":
    run(main)
