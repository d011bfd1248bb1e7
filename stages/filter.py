"""Which recordings of a corpus are used, by votes, speaker, duration, language and a list of exclusions; opens no audio.

python -m stages.filter demo_train
"""

import numpy as np
import pyarrow as pa

from speakerprint.languages import read_languages
from speakerprint.params import corpus_params, load_params
from speakerprint.recordings import RecordingsFile, write_recordings
from speakerprint.selection import choose, read_exclude_list
from stages import run, write_json


def main(corpus: str) -> None:
    pa.set_memory_pool(pa.system_memory_pool())  # which keeps less of what is freed than Arrow's own
    params = load_params()
    recordings = RecordingsFile(f"data/recordings/{corpus}/recordings.parquet")
    settings = corpus_params(params, corpus).filter
    languages = read_languages(f"data/languages/{corpus}.parquet")
    languages = languages[languages["probability"] >= params.language.min_probability]
    excluded = read_exclude_list(settings.exclude, recordings) if settings.exclude else ()
    kept, report = choose(recordings, settings, languages, excluded)
    of_row = iter(kept)
    selection = (chunk[np.fromiter(of_row, bool, len(chunk))] for chunk in recordings)
    write_recordings(selection, f"data/selection/{corpus}.parquet")
    write_json(report, f"metrics/data/{corpus}.filter.json")


if __name__ == "__main__":
    run(main)
