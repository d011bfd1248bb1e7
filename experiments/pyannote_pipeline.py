"""pyannote's community-1 pipeline, put together of what the wheel of moonshine-voice 0.0.73 holds: who spoke when.

Segmentation, embedding (ResNet34 in 8 bits), linear discriminant and PLDA are pyannote's and stand in the wheel's library. The
method and its constants are those of pyannote.audio 4.0, in its pipelines/speaker_diarization.py and clustering.py, utils/vbx.py:

    segmentation    windows of 10 s every second; in each up to three speakers, who may overlap
    embedding       of each window's speakers, over the frames where they speak alone
    clustering      by centroids, then VBx: variational Bayes in the space of the PLDA, which drops speakers it does not need
    reconstruction  as many speakers a frame as the windows count on average: those whom most windows name

The network hears a window once, with the weights of all its speakers; pyannote.audio, once for each of three.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax

from experiments.peers import RESNET34_AT, RESNET34_BYTES, RESNET34_SHA256, kaldi_filters, moonshine_bytes, session_of
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.errors import InputError
from speakerprint.inference.vectors import unit_vectors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# places and sizes of the library's symbols: `segmentation_ort_data`, and `xvec_mean1` to `plda_psi`
SEGMENTATION = 10_766_656, 1_594_080, "9715e3996ef181252aa1cc0c9398060f42b2c984c2fb65e3604262555e2efb1a"
DISCRIMINANT = 10_499_904, 266_752, "b73d6fee8df3fbf99c0e61610948a45b1c8432956e564ce8e597ffef8cd16a90"
DISCRIMINANT_LAYOUT = np.dtype(
    [
        ("mean1", "<f8", 256),
        ("mean2", "<f4", 128),
        ("lda", "<f4", (256, 128)),
        ("mu", "<f8", 128),
        ("tr", "<f8", (128, 128)),
        ("psi", "<f8", 128),
    ]
)

WINDOW, STEP = 10 * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ  # samples
FILTERS_A_STEP, FILTERS_A_WINDOW = 100, 998  # frames of the filter bank
FRAME_S, FRAME_LENGTH_S = 0.016875, 0.0619375  # from a frame of the segmentation to the next, and what each hears
SHORTEST_ALONE = 2  # frames: who has no more alone is embedded with the overlap
LEAST_ALONE = 0.2  # of a window, to take part in clustering
THRESHOLD, FA, FB = 0.6, 0.07, 0.8  # of community-1's configuration
SMOOTHING, ITERATIONS, CONVERGED, KEPT = 7.0, 20, 1e-4, 1e-7  # of pyannote.audio's utils/vbx.py and pipelines/clustering.py

Turns = list[tuple[float, float, str]]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Community1:
    """The networks, the map of embeddings, (n, 256), into the PLDA's space, (n, 128), and the variances between speakers there.

    Those are (128,); within a speaker each is 1.
    """

    segmentation: "InferenceSession"
    embedding: "InferenceSession"
    to_space: Callable[[Points], Points]
    between: Points

    def __call__(self, path: Path) -> Turns:
        """The turns in a WAV file of 16 kHz and one channel; raises InputError for another."""
        samples, rate_hz = soundfile.read(path, dtype="float32")
        if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
            raise InputError(f"{path}: {rate_hz} Hz, {samples.ndim} axes; expected {SAMPLE_RATE_HZ} Hz and one channel")
        padded = np.pad(samples, (0, n_windows(len(samples)) * STEP + WINDOW - STEP - len(samples)))
        windows = sliding_window_view(padded, WINDOW)[::STEP]
        active = np.concatenate([self.segmentation.run(None, {"waveforms": one[None, None]})[0] for one in windows]) > 0.5
        speakers = self.cluster(self.embed(padded, active), active)
        return turns_of(reconstruct(active, speakers))

    def embed(self, padded: NDArray[np.float32], active: NDArray[np.bool_]) -> Points:
        """Of who is active, (windows, frames, 3), the embeddings, (windows, 3, 256); 0 of who is not."""
        alone = active & (active.sum(axis=2, keepdims=True) == 1)
        masks = np.where(alone.sum(axis=1, keepdims=True) > SHORTEST_ALONE, alone, active)
        filters = kaldi_filters("hamming")(2**15 * padded)
        found = np.zeros((len(active), active.shape[2], 256))
        for number in np.flatnonzero(active.any(axis=(1, 2))):
            heard = filters[number * FILTERS_A_STEP :][:FILTERS_A_WINDOW]
            who = active[number].any(axis=0)
            weights = masks[number][:, who].T.astype(np.float32)
            found[number, who] = self.embedding.run(None, {"fbank": (heard - heard.mean(axis=0))[None], "weights": weights})[0]
        return found

    def cluster(self, embeddings: Points, active: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The speaker of each window's speakers, (windows, 3); -1 of who is not active. Two of one window are never the same."""
        alone = (active & (active.sum(axis=2, keepdims=True) == 1)).sum(axis=1)
        learned = embeddings[alone >= LEAST_ALONE * active.shape[1]]
        if len(learned) < 2:
            return np.where(active.any(axis=1), 0, -1)
        start = fcluster(linkage(unit_vectors(learned), "centroid"), THRESHOLD, "distance") - 1
        shares = vbx(self.to_space(learned), self.between, start)
        centroids = shares.T @ learned / shares.sum(axis=0)[:, None]
        speakers = np.full(embeddings.shape[:2], -1)
        for number, window in enumerate(active):
            local = np.flatnonzero(window.any(axis=0))
            rows, columns = linear_sum_assignment(cdist(embeddings[number, local], centroids, "cosine"))
            speakers[number, local[rows]] = columns
        return speakers


def n_windows(n_samples: int) -> int:
    """Windows that cover so many samples, the last one padded."""
    return 1 + max(0, -(-(n_samples - WINDOW) // STEP))


def vbx(points: Points, between: Points, start: NDArray[np.int64]) -> Points:
    """The share of each speaker in each point, (n, speakers kept), from clusters to start with, (n,).

    Landini et al. 2022, Bayesian HMM clustering of x-vector sequences, equations 16, 17, 23 and 25, without the HMM.
    """
    shares = softmax(SMOOTHING * (start[:, None] == np.unique(start)), axis=1)
    prior = np.full(shares.shape[1], 1 / shares.shape[1])
    constant = -0.5 * (np.square(points).sum(axis=1, keepdims=True) + points.shape[1] * np.log(2 * np.pi))
    scaled, before = points * np.sqrt(between), -np.inf
    for _ in range(ITERATIONS):
        spread = 1 / (1 + FA / FB * shares.sum(axis=0)[:, None] * between)
        means = FA / FB * spread * (shares.T @ scaled)
        logs = FA * (scaled @ means.T - 0.5 * (spread + means**2) @ between + constant) + np.log(prior + 1e-8)
        total = logsumexp(logs, axis=1, keepdims=True)
        shares = np.exp(logs - total)
        prior = shares.sum(axis=0) / len(shares)
        bound = total.sum() + FB * 0.5 * np.sum(np.log(spread) - spread - means**2 + 1)
        if bound - before < CONVERGED:
            break
        before = bound
    return shares[:, prior > KEPT]


def reconstruct(active: NDArray[np.bool_], speakers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Who speaks in each frame of the recording, (frames, speakers), of who is active in each window, and who that is."""
    first = np.rint(np.arange(len(active)) * STEP / SAMPLE_RATE_HZ / FRAME_S).astype(int)
    size = active.shape[1]
    named = np.zeros((first[-1] + size, speakers.max(initial=0) + 1))
    counted, covered = np.zeros((2, len(named)))
    for at, local, who in zip(first, active, speakers, strict=True):
        for speaker in np.unique(who[who >= 0]):
            named[at : at + size, speaker] += local[:, who == speaker].any(axis=1)
        counted[at : at + size] += local.sum(axis=1)
        covered[at : at + size] += 1
    rank = np.argsort(np.argsort(-named, axis=1, kind="stable"), axis=1)
    return rank < np.rint(counted / covered)[:, None]


def turns_of(speaking: NDArray[np.bool_]) -> Turns:
    """Runs of frames, each from the middle of its first frame to the middle of the next one that is not part of it."""
    found = []
    for speaker, column in enumerate(speaking.T):
        edges = np.flatnonzero(np.diff(column, prepend=False, append=False)).reshape(-1, 2)
        found += [(*(FRAME_LENGTH_S / 2 + FRAME_S * run), f"speaker {speaker + 1}") for run in edges]
    return sorted(found)


def load(wheels: Path) -> Community1:
    """The pipeline from the folder of the wheel; raises InputError where it is missing or what it holds is other."""
    space = np.frombuffer(moonshine_bytes(wheels, *DISCRIMINANT), DISCRIMINANT_LAYOUT)[0]

    def to_space(embeddings: Points) -> Points:
        reduced = np.sqrt(256) * unit_vectors(embeddings - space["mean1"]) @ space["lda"] - space["mean2"]
        return (np.sqrt(128) * unit_vectors(reduced) - space["mu"]) @ space["tr"].T

    segmentation = session_of(moonshine_bytes(wheels, *SEGMENTATION))
    embedding = session_of(moonshine_bytes(wheels, RESNET34_AT, RESNET34_BYTES, RESNET34_SHA256))
    return Community1(segmentation, embedding, to_space, space["psi"])
