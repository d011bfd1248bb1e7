"""A page that this machine serves: are two recordings of one speaker, who is it, and who is speaking now.

A recording is in memory for the length of a request and is written nowhere; of an enrolled one, the gallery keeps the embedding.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Query, Request, UploadFile, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.formparsers import MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware

from speakerprint import __version__
from speakerprint.audio.decode import MAX_RATE_HZ, MIN_RATE_HZ, decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.resample import resample
from speakerprint.errors import InputError
from speakerprint.inference.diarization import diarize
from speakerprint.inference.embedder import SpeakerEmbedder
from speakerprint.inference.listener import Event, Listener
from speakerprint.pages.conversation import N_PEAKS, add_peaks, shown
from speakerprint.pages.guard import POLICY, Guard
from speakerprint.pages.toolkit import BATCH_S, PAGES, score_histogram

if TYPE_CHECKING:
    from speakerprint.inference.gallery import Gallery

MAX_REQUEST_BYTES = 32 * 2**20
MAX_DURATION_S = 60.0
MAX_MEETING_S = 1800.0  # of a recording of several people
MAX_SPEAKERS = 100  # that a recording may be said to have
MAX_NAME = 100  # characters of a speaker's name
FALSE_ACCEPT_RATES = (0.01, 0.001)
IDENTIFY_RATE = 0.01
LISTENERS = 4  # streams at once
SILENT_S = 10.0  # without sound, a stream is closed
MAX_MESSAGE_BYTES = 2**20  # of a stream
TRY_LATER = 1013  # why a stream is closed, of IANA's codes
REFUSALS = (400, 403, 404, 408, 409, 411, 413, 422)
MAX_REASON = 120  # bytes, of 123 that RFC 6455 allows
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

MultiPartParser.spool_max_size = MAX_REQUEST_BYTES  # else uploads of more than a megabyte wait in a file


class Problem(BaseModel):
    """Why a request is refused: in words, or, of a form that is wrong, field by field."""

    detail: str | list[dict[str, Any]]


def reference_scores(corpus: str, embedder: SpeakerEmbedder) -> dict[str, Any]:
    """How an evaluation corpus of the project scores, for the page; a model without thresholds is given those of its trials."""
    from speakerprint.corpora.feature_store import FeatureStore  # with pandas, pyarrow and zarr: 130 MiB that the page needs not
    from speakerprint.evaluation.evaluate import embed_store
    from speakerprint.evaluation.trials import score_trials

    store = FeatureStore(f"data/features/evaluate/{corpus}")
    trials = score_trials(embed_store(store, embedder, BATCH_S), store.speaker_ids)
    if not embedder.thresholds:
        embedder.thresholds = {rate: trials.threshold_at(rate) for rate in FALSE_ACCEPT_RATES}
    return {"corpus": corpus, **score_histogram(trials)}


class Service:
    """What the page's API answers; ``reference`` is what reference_scores returned. Raises InputError for no thresholds."""

    def __init__(self, embedder: SpeakerEmbedder, gallery: "Gallery | None", reference: dict[str, Any] | None):
        if not embedder.thresholds:
            raise InputError(
                "the model has no thresholds; name an evaluation corpus of the project with --corpus to take them from"
            )
        self.embedder, self.gallery, self.reference = embedder, gallery, reference
        self.computing = threading.Lock()  # one recording at a time: more would only share the cores
        self.listeners = 0

    def model(self) -> dict[str, Any]:
        """What the page has to know: thresholds by false-accept rate, limits, and the scores of a corpus."""
        thresholds = self.embedder.thresholds
        return {
            "model": self.embedder.model_id,
            "thresholds": [{"false_accept_rate": rate, "score": thresholds[rate]} for rate in sorted(thresholds, reverse=True)],
            "max_request_bytes": MAX_REQUEST_BYTES,
            "max_duration_s": MAX_DURATION_S,
            "max_meeting_s": MAX_MEETING_S,
            "gallery": self.gallery is not None,
            "reference": self.reference,
        }

    def verify(
        self, first: UploadFile, second: UploadFile, false_accept_rate: Annotated[float | None, Form()] = None
    ) -> dict[str, Any]:
        """Are two recordings of one speaker? Without a false-accept rate, at the highest that the model has a threshold for.

        `same_speaker` is null, "cannot tell", where `doubts` says what makes a recording unfit to be judged.
        """
        rate = max(self.embedder.thresholds) if false_accept_rate is None else false_accept_rate
        threshold = self.embedder.threshold(rate)
        heard = [self._samples(upload) for upload in (first, second)]
        with self.computing:
            judged = [self.embedder.embed_with_doubts(samples, SAMPLE_RATE_HZ, name) for samples, name in heard]
        found = [f"{name}: {doubt}" for (_, name), (_, doubts) in zip(heard, judged, strict=True) for doubt in doubts]
        score = float(judged[0][0] @ judged[1][0])
        verdict = None if found else score >= threshold
        return {"score": score, "same_speaker": verdict, "threshold": threshold, "false_accept_rate": rate, "doubts": found}

    def identify(self, recording: UploadFile, false_accept_rate: Annotated[float | None, Form()] = None) -> dict[str, Any]:
        """Who of the people enrolled is it, or nobody? The rate, 1 % by default, is of the question: see `Gallery.identify`.

        `doubts` says what makes the recording unfit to be judged: then more strangers are taken for somebody.
        """
        rate = IDENTIFY_RATE if false_accept_rate is None else false_accept_rate
        known, (samples, name) = self._known(), self._samples(recording)
        with self.computing:
            embedding, doubts = self.embedder.embed_with_doubts(samples, SAMPLE_RATE_HZ, name)
        found = known.identify(embedding, false_accept_rate=rate)
        candidates = [candidate._asdict() for candidate in found.candidates]
        return {**found._asdict(), "candidates": candidates, "false_accept_rate": rate, "doubts": list(doubts)}

    def diarize(self, meeting: UploadFile, speakers: Annotated[int | None, Form(ge=1, le=MAX_SPEAKERS)] = None) -> dict[str, Any]:
        """Who spoke when, of so many if known: turns, speakers, and the loudest samples of N_PEAKS parts, each 0 to 1."""
        data, name = meeting.file.read(), meeting.filename or "the recording"
        with self.computing:
            samples, sample_rate_hz = decode(data, name, MAX_MEETING_S)
            found = diarize(samples, sample_rate_hz, embedder=self.embedder, n_speakers=speakers, gallery=self.gallery)
        loudest = np.zeros(N_PEAKS, np.float32)
        add_peaks(loudest, samples, 0, len(samples))
        return shown(found, loudest)

    def people(self) -> dict[str, list[str]]:
        """Who is enrolled, and with which recordings."""
        return self._known().speakers()

    def enrol(
        self, speaker: Annotated[str, Form(min_length=1, max_length=MAX_NAME)], recordings: Annotated[list[UploadFile], File()]
    ) -> dict[str, list[str]]:
        """Enrol recordings of a person: their embeddings are kept, the recordings are not."""
        names = [upload.filename or f"recording {i}" for i, upload in enumerate(recordings, start=1)]
        self._known().enrol(speaker, [self._embed(upload) for upload in recordings], names)
        return self._known().speakers()

    def forget(self, speaker: str) -> dict[str, list[str]]:
        """Forget a person."""
        if speaker not in self._known().speakers():
            raise HTTPException(404, f"nobody named {speaker!r} is enrolled")
        self._known().remove(speaker)
        return self._known().speakers()

    async def listen(
        self, socket: WebSocket, sample_rate_hz: Annotated[int, Query(ge=MIN_RATE_HZ, le=MAX_RATE_HZ)] = SAMPLE_RATE_HZ
    ) -> None:
        """Who is speaking now? Takes samples of 16 bits, little-endian, one channel; sends events as they are known.

        A message of text is the end: the last events follow, and the stream is closed.
        """
        await socket.accept()
        if self.listeners == LISTENERS:
            await socket.close(TRY_LATER, f"{LISTENERS} streams are listened to already; try again later")
            return
        self.listeners += 1
        try:
            listener = Listener(sample_rate_hz, embedder=self.embedder, gallery=self.gallery, false_accept_rate=IDENTIFY_RATE)
            data: bytes | None = b""
            while data is not None:
                async with asyncio.timeout(SILENT_S):
                    message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                data = message.get("bytes")
                for event in await run_in_threadpool(self._hear, listener, data):
                    await socket.send_json({**event._asdict(), "doubts": list(listener.doubts)})
            await socket.close()
        except TimeoutError:
            await socket.close(POLICY, f"nothing was sent for {SILENT_S:g} s")
        except InputError as error:
            await socket.close(POLICY, str(error).encode()[:MAX_REASON].decode(errors="ignore"))
        finally:
            self.listeners -= 1

    def _hear(self, listener: Listener, data: bytes | None) -> list[Event]:
        """What a message brings to light; None is the end."""
        if data is not None and len(data) % 2:
            raise InputError(f"a message of {len(data)} bytes, expected samples of two")
        with self.computing:
            return listener.end() if data is None else listener.hear(np.frombuffer(data, "<i2"))

    def _known(self) -> "Gallery":
        if self.gallery is None:
            raise HTTPException(409, "nobody can be enrolled: the server was started without --gallery")
        return self.gallery

    def _embed(self, upload: UploadFile) -> np.ndarray:
        samples, _ = self._samples(upload)
        with self.computing:
            return self.embedder.embed(samples, SAMPLE_RATE_HZ)

    def _samples(self, upload: UploadFile) -> tuple[np.ndarray, str]:
        """An upload's waveform, (n_samples,) at 16 kHz, and its name."""
        data, name = upload.file.read(), upload.filename or "the recording"
        with self.computing:
            samples, sample_rate_hz = decode(data, name, MAX_DURATION_S)
            if not samples.any():
                raise InputError(f"{name}: is silent; check the microphone")
            return resample(samples, sample_rate_hz, SAMPLE_RATE_HZ), name


def create_app(
    embedder: SpeakerEmbedder,
    gallery: "Gallery | None" = None,
    reference: dict[str, Any] | None = None,
    allowed_hosts: Sequence[str] = LOOPBACK,
) -> FastAPI:
    """The page and its API; ``reference`` is what reference_scores returned. Requests that name another host are refused.

    Raises InputError for a model without thresholds.
    """
    service = Service(embedder, gallery, reference)
    # the documentation pages that FastAPI makes of /openapi.json would come from the network
    refusals: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in REFUSALS}
    app = FastAPI(title="speakerprint", version=__version__, docs_url=None, redoc_url=None, responses=refusals)
    app.add_middleware(Guard, max_bytes=MAX_REQUEST_BYTES)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)

    @app.exception_handler(InputError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGES / "serve.html")

    app.mount("/static", StaticFiles(directory=PAGES))
    app.get("/api/model")(service.model)
    app.post("/api/verify")(service.verify)
    app.post("/api/identify")(service.identify)
    app.post("/api/diarize")(service.diarize)
    app.get("/api/people")(service.people)
    app.post("/api/enrol")(service.enrol)
    app.delete("/api/people/{speaker:path}")(service.forget)
    app.websocket("/api/listen")(service.listen)
    return app
