"""What recordings a corpus has, and where they are; makes or fetches them where they are not on disk yet.

python -m stages.download demo_train
"""

import pyarrow as pa

from speakerprint.corpora.recordings import write_recordings
from speakerprint.corpora.sharing import SharedFolder
from speakerprint.corpora.sources import source_chunks
from speakerprint.params.section import read_section
from speakerprint.params.sources import Source
from stages import run, still_to_come


def main(corpus: str) -> None:
    pa.set_memory_pool(pa.system_memory_pool())  # which keeps less of what is freed than Arrow's own
    folder = f"data/recordings/{corpus}"
    later = {name: read_section(Source, "corpora", name, "source") for name in still_to_come("download")}
    with SharedFolder("data/unfinished/lists", corpus, later).at_work() as shared:
        recordings = source_chunks(read_section(Source, "corpora", corpus, "source"), folder, shared, later.values())
        write_recordings(recordings, f"{folder}/recordings.parquet")


if __name__ == "__main__":
    run(main)
