"""Audio that several benchmarks' tests listen to."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.resampling import resample_corpus
from speakerprint.params.resample import Resample

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """data/audio with one corpus, `report`: six recordings of 1.2 s, of three speakers in two locales, each with a pitch."""
    folder = tmp_path_factory.mktemp("project")
    rng, t, rows = np.random.default_rng(1), np.arange(round(1.2 * RATE_HZ)) / RATE_HZ, []
    for speaker, locale, pitch_hz in (("ann", "fr", 200), ("bob", "fr", 130), ("eve", "de", 330)):
        for take in range(2):
            path = folder / f"{speaker}{take}.wav"
            soundfile.write(path, 0.2 * np.sin(2 * np.pi * pitch_hz * t) + 0.01 * rng.normal(size=len(t)), RATE_HZ)
            rows.append({"recording_id": path.stem, "speaker_id": speaker, "locale": locale, "location": str(path)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        settings = Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.0)
        resample_corpus(as_recordings(pd.DataFrame(rows), "test"), folder / "audio/report", settings)
    return folder / "audio"
