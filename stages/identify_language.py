"""The language of recordings without a locale, as Whisper hears it; of a corpus whose filter asks for none, an empty table.

python -m stages.identify_language voxceleb2
"""

from stages import fresh, run, write_json  # isort: skip
from pathlib import Path

import pandas as pd

from speakerprint.corpora.languages import empty_table, groups_of, languages_of, read_languages, write_languages
from speakerprint.corpora.recordings import read_recordings
from speakerprint.corpora.selection import candidates
from speakerprint.params.filter import Filter
from speakerprint.params.language import Language
from speakerprint.params.pretrained import Pretrained
from speakerprint.params.section import read_section


def main(corpus: str) -> None:
    ready = Path(f"data/given/languages/{corpus}.parquet")
    table = read_languages(ready).dropna(subset="language").assign(clips=0) if ready.is_file() else empty_table()
    report = {"given": len(table), "groups": 0, "clips": 0, "by_language": {}, "bad": []}
    recordings = unheard(corpus, table)
    if len(recordings):
        from speakerprint.corpora.language_identification import identify_languages  # seconds to import
        from speakerprint.model.language import load_language_model  # seconds to import

        source = read_section(Pretrained, "pretrained").source
        heard, identified = identify_languages(
            recordings,
            read_section(Language, "language"),
            lambda: load_language_model(source, "data/pretrained/whisper.safetensors").hear,
            f"data/languages/heard/{corpus}",
        )
        table, report = pd.concat([table, heard]), report | identified
    write_languages(table, fresh(f"data/languages/{corpus}.parquet"))
    write_json(report, f"metrics/data/{corpus}.languages.json")


def unheard(corpus: str, table: pd.DataFrame) -> pd.DataFrame:
    """The recordings whose language matters and is not in the table yet, with their group; none if the filter asks for none."""
    filter = read_section(Filter, "corpora", corpus, "filter")
    if filter.languages is None:
        return pd.DataFrame()
    recordings = candidates(read_recordings(f"data/recordings/{corpus}/recordings.parquet"), filter)
    recordings = recordings[languages_of(recordings, table).isna()]
    return recordings.assign(group=groups_of(recordings, read_section(str, "corpora", corpus, "source", "kind")))


if __name__ == "__main__":
    run(main)
