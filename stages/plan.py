"""The selections can be trained on. It runs after every `filter` and before any `resample`, so before audio is opened.

python -m stages.plan
"""

import numpy as np

from speakerprint.corpora.recordings import RecordingsFile
from speakerprint.params.section import Fraction, PositiveInt, read_section
from speakerprint.training.split import refuse_too_few_speakers
from stages import run, write_text


def main() -> None:
    refuse_too_few_speakers(
        {corpus: recordings_per_speaker(corpus) for corpus in read_section(list[str], "train_corpora")},
        read_section(PositiveInt, "sampling", "speakers"),
        read_section(list[float], "sampling", "speeds"),
        read_section(Fraction, "train", "validation_speakers"),
    )
    write_text("trainable\n", "data/planned")  # always the same, so that no other stage reruns because this one did


def recordings_per_speaker(corpus: str) -> np.ndarray:
    """How many recordings each speaker of a corpus has in its selection, (n_speakers,)."""
    chunks = (chunk["speaker_id"].value_counts() for chunk in RecordingsFile(f"data/selection/{corpus}.parquet"))
    counts = next(chunks)
    for more in chunks:
        counts = counts.add(more, fill_value=0)
    return counts.to_numpy(np.int64)


if __name__ == "__main__":
    run(main)
