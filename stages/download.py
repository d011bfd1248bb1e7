"""What recordings a corpus has, and where they are; makes or fetches them where they are not on disk yet.

python -m stages.download demo_train
"""

import pyarrow as pa

from speakerprint.params import corpus_params, load_params
from speakerprint.recordings import write_recordings
from speakerprint.sources import source_chunks
from stages import run


def main(corpus: str) -> None:
    pa.set_memory_pool(pa.system_memory_pool())  # which keeps less of what is freed than Arrow's own
    params = load_params()
    folder = f"data/recordings/{corpus}"
    recordings = source_chunks(corpus_params(params, corpus).source, folder)
    write_recordings(recordings, f"{folder}/recordings.parquet")


if __name__ == "__main__":
    run(main)
