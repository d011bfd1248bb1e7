"""The embedder among what people use with it: scikit-learn, joblib, asyncio, pickle."""

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from speakerprint import SpeakerEmbedder
from speakerprint.model.speaker_model import SpeakerModel
from tests.helpers import tiny_model
from tests.tones import tone

PITCHES_HZ = (200, 200, 200, 900, 900, 900)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    SpeakerModel(tiny_model()).save(folder, "a run")
    return SpeakerEmbedder.load(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = [str(folder / f"{number}.wav") for number in range(len(PITCHES_HZ))]
    for number, (path, hz) in enumerate(zip(paths, PITCHES_HZ, strict=True)):
        soundfile.write(path, tone(hz, 0.5 + 0.1 * number), 16_000)
    return paths


@pytest.mark.slow
def test_scikit_learn_takes_it_as_a_step(embedder, files):
    pipeline = make_pipeline(FunctionTransformer(embedder.embed_files), LogisticRegression(C=1e6))
    assert pipeline.fit(files, PITCHES_HZ).score(files, PITCHES_HZ) == 1
    assert cross_val_score(pipeline, np.array(files), PITCHES_HZ, cv=3).mean() == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib_runs_it_in_threads_and_in_processes(embedder, files, backend):
    found = Parallel(n_jobs=2, backend=backend)(delayed(embedder.embed_files)(files[start : start + 3]) for start in (0, 3))
    np.testing.assert_allclose(np.concatenate(found), embedder.embed_files(files), atol=1e-6)


def test_asyncio_goes_on_while_it_embeds(embedder, files):
    async def embed_all():
        return await asyncio.gather(*(asyncio.to_thread(embedder.embed_files, path) for path in files))

    with ThreadPoolExecutor(1) as pool:  # a thread without an event loop: a test with a browser leaves one running in this
        found = pool.submit(asyncio.run, embed_all()).result()
    np.testing.assert_allclose(np.concatenate(found), embedder.embed_files(files), atol=1e-5)


def test_a_pickled_embedder_is_the_same(embedder, files):
    embedder.thresholds = {0.01: 0.3}
    again = pickle.loads(pickle.dumps(embedder))
    assert again.model_id == embedder.model_id and again.thresholds == {0.01: 0.3}
    np.testing.assert_array_equal(again.embed_files(files[0]), embedder.embed_files(files[0]))
