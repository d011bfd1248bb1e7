"""What recordings a corpus has, and where they are; makes or fetches them where they are not on disk yet.

python -m stages.download demo_train
"""

from speakerprint.params import corpus_params, load_params
from speakerprint.recordings import write_recordings
from speakerprint.sources import read_source
from stages import run


def main(corpus: str) -> None:
    params = load_params()
    folder = f"data/recordings/{corpus}"
    recordings = read_source(corpus_params(params, corpus).source, folder)
    write_recordings(recordings, f"{folder}/recordings.parquet")


if __name__ == "__main__":
    run(main)
