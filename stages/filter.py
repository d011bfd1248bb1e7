"""Which recordings of a corpus are used, by votes, speaker, duration, language and a list of exclusions; opens no audio.

python -m stages.filter demo_train
"""

from speakerprint.languages import read_languages
from speakerprint.params import corpus_params, load_params
from speakerprint.recordings import read_recordings, write_recordings
from speakerprint.selection import read_exclude_list, select
from stages import run, write_json


def main(corpus: str) -> None:
    params = load_params()
    recordings = read_recordings(f"data/recordings/{corpus}/recordings.parquet")
    settings = corpus_params(params, corpus).filter
    languages = read_languages(f"data/languages/{corpus}.parquet")
    languages = languages[languages["probability"] >= params.language.min_probability]
    excluded = read_exclude_list(settings.exclude, recordings) if settings.exclude else ()
    selection, report = select(recordings, settings, languages, excluded)
    write_recordings(selection, f"data/selection/{corpus}.parquet")
    write_json(report, f"metrics/data/{corpus}.filter.json")


if __name__ == "__main__":
    run(main)
