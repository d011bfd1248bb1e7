"""The language of recordings without a locale, as Whisper hears it; of a corpus whose filter asks for none, an empty table.

python -m stages.identify_language voxceleb2
"""

from stages import run, write_json  # isort: skip
from pathlib import Path

import pandas as pd

from speakerprint.languages import empty_table, groups_of, languages_of, read_languages, write_languages
from speakerprint.params import Params, corpus_params, load_params
from speakerprint.recordings import read_recordings
from speakerprint.selection import candidates


def main(corpus: str) -> None:
    params = load_params()
    ready = Path(f"languages/{corpus}.parquet")
    table = read_languages(ready).dropna(subset="language").assign(clips=0) if ready.is_file() else empty_table()
    report = {"given": len(table), "groups": 0, "clips": 0, "by_language": {}, "bad": []}
    recordings = unheard(corpus, params, table)
    if len(recordings):
        from speakerprint.language_identification import identify_languages, load_language_model  # seconds to import

        heard, identified = identify_languages(
            recordings,
            params.language,
            lambda: load_language_model(params.pretrained.source, "data/pretrained/whisper.safetensors").hear,
            f"data/languages/heard/{corpus}",
        )
        table, report = pd.concat([table, heard]), report | identified
    write_languages(table, f"data/languages/{corpus}.parquet")
    write_json(report, f"metrics/data/{corpus}.languages.json")


def unheard(corpus: str, params: Params, table: pd.DataFrame) -> pd.DataFrame:
    """The recordings whose language matters and is not in the table yet, with their group; none if the filter asks for none."""
    filter = corpus_params(params, corpus).filter
    if filter.languages is None:
        return pd.DataFrame()
    recordings = candidates(read_recordings(f"data/recordings/{corpus}/recordings.parquet"), filter)
    recordings = recordings[languages_of(recordings, table).isna()]
    return recordings.assign(group=groups_of(recordings, corpus_params(params, corpus).source.kind))


if __name__ == "__main__":
    run(main)
