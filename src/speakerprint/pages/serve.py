"""A page that this machine serves: are two recordings of one speaker, and who is it.

A recording is in memory for the length of a request and is written nowhere; of an enrolled one, the gallery keeps the embedding.
"""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.formparsers import MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware

from speakerprint.audio.decode import decode
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.errors import InputError
from speakerprint.evaluation.evaluate import embed_store
from speakerprint.evaluation.trials import score_trials
from speakerprint.inference.embedder import SpeakerEmbedder
from speakerprint.pages.guard import Guard
from speakerprint.pages.report import BATCH_S, PAGES, score_histogram

if TYPE_CHECKING:
    from speakerprint.inference.gallery import Gallery

MAX_REQUEST_BYTES = 32 * 2**20
MAX_DURATION_S = 60.0
MAX_NAME = 100  # characters of a speaker's name
FALSE_ACCEPT_RATES = (0.01, 0.001)
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

MultiPartParser.spool_max_size = MAX_REQUEST_BYTES  # else uploads of more than a megabyte wait in a file


def reference_scores(corpus: str, embedder: SpeakerEmbedder) -> dict[str, Any]:
    """How an evaluation corpus of the project scores, for the page; a model without thresholds is given those of its trials."""
    store = FeatureStore(f"data/features/evaluate/{corpus}")
    trials = score_trials(embed_store(store, embedder.model, BATCH_S), store.speaker_ids)
    if not embedder.thresholds:
        embedder.thresholds = {rate: trials.threshold_at(rate) for rate in FALSE_ACCEPT_RATES}
    return {"corpus": corpus, **score_histogram(trials)}


def create_app(
    embedder: SpeakerEmbedder,
    gallery: "Gallery | None" = None,
    reference: dict[str, Any] | None = None,
    allowed_hosts: Sequence[str] = LOOPBACK,
) -> FastAPI:
    """The page and its API; ``reference`` is what reference_scores returned. Requests that name another host are refused.

    Raises InputError for a model without thresholds.
    """
    thresholds = embedder.thresholds
    if not thresholds:
        raise InputError("the model has no thresholds; name an evaluation corpus of the project with --corpus to take them from")
    # the documentation pages that FastAPI makes of /openapi.json would come from the network
    app = FastAPI(title="speakerprint", docs_url=None, redoc_url=None)
    computing = threading.Lock()  # one recording at a time: more would only share the cores

    app.add_middleware(Guard, max_bytes=MAX_REQUEST_BYTES)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)

    @app.exception_handler(InputError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    def embed(upload: UploadFile) -> np.ndarray:
        data, name = upload.file.read(), upload.filename or "the recording"
        with computing:
            samples, sample_rate_hz = decode(data, name, MAX_DURATION_S)
            if not samples.any():
                raise InputError(f"{name}: is silent; check the microphone")
            return embedder.embed(samples, sample_rate_hz)

    def known() -> "Gallery":
        if gallery is None:
            raise HTTPException(409, "nobody can be enrolled: the server was started without --gallery")
        return gallery

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGES / "serve.html")

    app.mount("/static", StaticFiles(directory=PAGES))

    @app.get("/api/model")
    def model() -> dict[str, Any]:
        """What the page has to know: thresholds by false-accept rate, limits, and the scores of a corpus."""
        return {
            "model": embedder.model_id,
            "thresholds": [{"false_accept_rate": rate, "score": thresholds[rate]} for rate in sorted(thresholds, reverse=True)],
            "max_request_bytes": MAX_REQUEST_BYTES,
            "max_duration_s": MAX_DURATION_S,
            "gallery": gallery is not None,
            "reference": reference,
        }

    @app.post("/api/verify")
    def verify(
        first: UploadFile, second: UploadFile, false_accept_rate: Annotated[float, Form()] = max(thresholds)
    ) -> dict[str, Any]:
        """Are two recordings of one speaker?"""
        threshold = embedder.threshold(false_accept_rate)
        score = float(embed(first) @ embed(second))
        return {
            "score": score,
            "same_speaker": score >= threshold,
            "threshold": threshold,
            "false_accept_rate": false_accept_rate,
        }

    @app.post("/api/identify")
    def identify(recording: UploadFile, false_accept_rate: Annotated[float, Form()] = min(thresholds)) -> dict[str, Any]:
        """Who of the people enrolled is it, or nobody?"""
        found = known().identify(embed(recording), embedder.threshold(false_accept_rate))
        return {**found._asdict(), "candidates": [candidate._asdict() for candidate in found.candidates]}

    @app.get("/api/people")
    def people() -> dict[str, list[str]]:
        """Who is enrolled, and with which recordings."""
        return known().speakers()

    @app.post("/api/enrol")
    def enrol(
        speaker: Annotated[str, Form(min_length=1, max_length=MAX_NAME)], recordings: Annotated[list[UploadFile], File()]
    ) -> dict[str, list[str]]:
        """Enrol recordings of a person: their embeddings are kept, the recordings are not."""
        names = [upload.filename or f"recording {i}" for i, upload in enumerate(recordings, start=1)]
        known().enrol(speaker, [embed(upload) for upload in recordings], names)
        return known().speakers()

    @app.delete("/api/people/{speaker:path}")
    def forget(speaker: str) -> dict[str, list[str]]:
        """Forget a person."""
        if speaker not in known().speakers():
            raise HTTPException(404, f"nobody named {speaker!r} is enrolled")
        known().remove(speaker)
        return known().speakers()

    return app
