"""A model on recordings that are no corpus of params.yaml: the pipeline's own steps, in a folder that goes again."""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from speakerprint.audio.decode import decode
from speakerprint.audio.voice_activity import NoSpeech, require_speech
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.corpora.features import extract_corpus
from speakerprint.corpora.resampling import read_audio, resample_corpus
from speakerprint.evaluation.evaluate import Embedder, Evaluation, evaluate
from speakerprint.params.evaluation import Evaluation as EvaluationParams
from speakerprint.params.resample import Resample

RESAMPLE = Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=1.0)
SETTINGS = EvaluationParams(corpora=[], bootstrap_samples=1000, duration_edges_s=[2.0, 4.0, 6.0])  # those of params.yaml


def evaluate_recordings(recordings: pd.DataFrame, model: Embedder) -> tuple[Evaluation, list[dict[str, Any]], list[str]]:
    """Measure a model on recordings, in the schema of `corpora.recordings`, as the stage `evaluate` does.

    Also returns the recordings that are left out, each with its location and reason, and what is wrong with those that are in but
    hold no speech. Raises InputError as `evaluate` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        audio, features = Path(folder, "audio"), Path(folder, "features")
        report = resample_corpus(recordings, audio, RESAMPLE)
        extract_corpus(audio, features)
        # of the projection, which is not shown, as little as there can be
        return evaluate(FeatureStore(features), model, SETTINGS, projected_speakers=2), report["bad"], without_speech(audio)


def without_speech(audio: Path) -> list[str]:
    """What `require_speech` says of the recordings in a folder that `resample_corpus` made, where it refuses them."""
    refused = []
    recordings, clips = read_audio(audio)
    for location, clip in zip(recordings["location"], clips, strict=True):
        try:
            require_speech(decode(clip, location)[0], location)
        except NoSpeech as error:
            refused.append(str(error))
    return refused
