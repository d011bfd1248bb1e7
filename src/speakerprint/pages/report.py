"""One HTML file to look at and to listen to: the figures, the curves, the map and the confusions of some recordings.

It needs neither the network nor another file: script and audio are in it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs
from scipy.special import ndtri
from sklearn.manifold import TSNE
from tqdm import tqdm

from speakerprint.audio.decode import decode
from speakerprint.audio.files import read_file
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.corpora.resampling import read_audio
from speakerprint.corpora.sources.folder import AUDIO_SUFFIXES, read_folder, speaker_files
from speakerprint.corpora.tables import read_recording_table
from speakerprint.errors import InputError
from speakerprint.evaluation.evaluate import PERPLEXITY, embed_store
from speakerprint.evaluation.metrics_files import read_metrics
from speakerprint.evaluation.trials import LEVELS_PER_UNIT, Trials, eer_interval, retrieve, score_trials
from speakerprint.files import write_text
from speakerprint.inference.embedder import Recording, SpeakerEmbedder
from speakerprint.inference.vectors import unit_vectors
from speakerprint.pages import toolkit
from speakerprint.params.sources import FolderSource

SEED = 1  # of the bootstrap, the map, and the draw of whom it shows
BOOTSTRAP_SAMPLES = 1000
STEPS_PER_UNIT = 1000  # places of the threshold slider
N_PAIRS = 12
N_NEIGHBOURS = 5
MIN_RECORDINGS = 3  # fewer have no map; for two there is `verify`
MAX_RECORDINGS = 500
DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)
DET_LIMITS = (0.0005, 0.85)


@dataclass(frozen=True)
class Voices:
    """Recordings and what a model makes of them.

    names (n,) and embeddings (n, dim); speakers (n,), or None where they are not known; ``audio`` yields the samples and the
    sample rate in Hz of the recordings at ascending indices; ``evaluation`` is the pipeline's metrics file, where there is one.
    """

    title: str
    names: list[str]
    speakers: NDArray[np.str_] | None
    embeddings: NDArray[np.float32]
    audio: Callable[[Sequence[int]], Iterator[tuple[np.ndarray, int]]]
    evaluation: dict[str, Any] | None = None


# --- where recordings come from -----------------------------------------------------------------------------------------


def read_files(
    source: str | Path,
    embedder: SpeakerEmbedder,
    on_doubt: Callable[[Recording, tuple[str, ...]], None] | None = None,
) -> Voices:
    """Embed a folder per speaker, a folder of recordings of unknown speakers, or a CSV of columns path and, if known, speaker.

    Paths in a CSV are relative to its folder. on_doubt: as `SpeakerEmbedder.embed_each` takes it.
    Raises InputError for a source without recordings, a malformed table, or a recording that `embed_files` refuses.
    """
    source = Path(source)
    if source.is_dir():
        locations, names, speakers = _in_folder(source)
    elif source.is_file():
        locations, names, speakers = _in_table(source)
    else:
        raise InputError(f"{source} does not exist; expected a folder of recordings, or a CSV with columns speaker and path")

    def audio(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, int]]:
        return (decode(read_file(locations[index]), names[index]) for index in indices)

    known = np.array(speakers) if speakers else None
    return Voices(source.resolve().name, names, known, embedder.embed_files(locations, on_doubt), audio)


def _in_folder(root: Path) -> tuple[list[str], list[str], list[str]]:
    loose = sorted(path for path in root.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."))
    if loose and speaker_files(root).empty:
        return [str(path) for path in loose], [path.name for path in loose], []
    rows = read_folder(FolderSource(kind="folder", root=str(root)))
    names = [Path(location).relative_to(root).as_posix() for location in rows["location"]]
    return rows["location"].tolist(), names, rows["speaker_id"].tolist()


def _in_table(table: Path) -> tuple[list[str], list[str], list[str]]:
    rows = read_recording_table(table, speakers=False)
    speakers = [row.speaker for row in rows if row.speaker]
    return [row.location for row in rows], [row.path for row in rows], speakers


def read_corpus(corpus: str, embedder: SpeakerEmbedder) -> Voices:
    """Embed an evaluation corpus of the project in the working directory, from the features that `dvc repro` left there.

    Raises InputError if they are not there.
    """
    store = FeatureStore(f"data/features/evaluate/{corpus}")
    ids = store.recordings["recording_id"].tolist()

    def audio(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, int]]:
        wanted = {ids[index] for index in indices}
        recordings, clips = read_audio(f"data/audio/{corpus}")
        for name, clip in zip(recordings["recording_id"], clips, strict=True):
            if name in wanted:
                yield decode(clip, name)

    metrics = Path(f"metrics/{corpus}.json")
    evaluation = read_metrics(metrics, f"evaluate@{corpus}") if metrics.is_file() else None
    return Voices(corpus, ids, store.speaker_ids.astype(str), embed_store(store, embedder, toolkit.BATCH_S), audio, evaluation)


# --- what the page shows ------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """Two recordings, by index, and their score."""

    first: int
    second: int
    score: float


def confused_pairs(embeddings: NDArray, speakers: NDArray, top: int) -> tuple[list[Pair], list[Pair]]:
    """The non-target pairs that score highest and the target pairs that score lowest, worst first.

    embeddings (n, dim), speakers (n,). There is one pair for any two speakers, and one for each speaker, so that a mislabelled
    recording does not fill the lists.
    """
    units = unit_vectors(embeddings)
    ids, codes = np.unique(speakers, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(ids)))
    members = np.split(order, starts[1:])
    highest = np.full((len(ids), len(ids)), -np.inf)
    lowest = []
    for speaker, own in enumerate(members):
        scores = units[own] @ units[order].T
        highest[speaker, speaker + 1 :] = np.maximum.reduceat(scores, starts, axis=1).max(axis=0)[speaker + 1 :]
        if len(own) > 1:
            among = units[own] @ units[own].T
            i, j = np.unravel_index(among.argmin(), among.shape)
            lowest.append(Pair(int(own[i]), int(own[j]), float(among[i, j])))
    worst = []
    for place in np.argsort(-highest, axis=None, kind="stable")[: min(top, len(ids) * (len(ids) - 1) // 2)]:
        one, other = (members[speaker] for speaker in np.unravel_index(place, highest.shape))
        between = units[one] @ units[other].T
        i, j = np.unravel_index(between.argmax(), between.shape)
        worst.append(Pair(int(one[i]), int(other[j]), float(between[i, j])))
    return worst, sorted(lowest, key=lambda pair: pair.score)[:top]


def report_data(voices: Voices, embedder: SpeakerEmbedder, max_recordings: int = MAX_RECORDINGS) -> dict[str, Any]:
    """What the page shows, as JSON; the figures are of all recordings, the map has at most max_recordings, of whole speakers.

    Raises InputError for fewer than three recordings.
    """
    n, speakers = len(voices.names), voices.speakers
    if n < MIN_RECORDINGS:
        raise InputError(f"{voices.title} has {n} recordings, expected at least {MIN_RECORDINGS}; for two there is `verify`")
    counts = np.unique(speakers, return_counts=True)[1] if speakers is not None else np.ones(n)
    groups = speakers if speakers is not None else np.arange(n)
    measured = None
    if speakers is not None and len(counts) > 1 and counts.max() > 1:
        measured = _measured(voices, speakers, embedder)
    likest, unlikest = confused_pairs(voices.embeddings, groups, N_PAIRS)
    mapped = _drawn(groups, max_recordings)
    in_pairs = sorted({index for pair in likest + unlikest for index in pair[:2]})
    shown = np.union1d(mapped, in_pairs).tolist()
    audio = _listenable(voices, [in_pairs, np.setdiff1d(mapped, in_pairs).tolist()])
    units = unit_vectors(voices.embeddings[shown])
    scores = units @ units.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, : min(N_NEIGHBOURS, len(shown) - 1)]
    place = {index: at for at, index in enumerate(shown)}
    points = _plane(voices.embeddings[mapped])
    notes = []
    if len(mapped) < n:
        notes.append(f"The map shows {len(mapped):,} of {n:,} recordings, of speakers drawn at random; the figures are of all.")
    if len(audio) < len(shown):
        notes.append(
            f"{len(audio):,} of {len(shown):,} recordings can be listened to: this file holds at most "
            f"{toolkit.MAX_AUDIO_BYTES / 2**20:g} MB of audio, that of the pairs first."
        )
    if speakers is not None and not measured:
        notes.append("There are no figures: they need two speakers, and a speaker with two recordings.")
    return {
        "title": voices.title,
        "n_recordings": n,
        "n_speakers": len(counts) if speakers is not None else None,
        "model": embedder.model_id,
        "notes": notes,
        "recordings": [
            {
                "name": voices.names[index],
                "speaker": None if speakers is None else str(speakers[index]),
                "audio": audio.get(index),
                "nearest": [[int(other), round(float(scores[at, other]), 3)] for other in nearest[at]],
            }
            for at, index in enumerate(shown)
        ],
        "map": [[place[int(index)], *point] for index, point in zip(mapped, points.round(2).tolist(), strict=True)],
        "likest": [[place[pair.first], place[pair.second], round(pair.score, 7)] for pair in likest],
        "unlikest": [[place[pair.first], place[pair.second], round(pair.score, 7)] for pair in unlikest],
        "measured": measured,
        "max_listen_s": toolkit.MAX_LISTEN_S,
    }


def _measured(voices: Voices, speakers: NDArray[np.str_], embedder: SpeakerEmbedder) -> dict[str, Any]:
    trials = score_trials(voices.embeddings, speakers)
    eer, threshold = trials.equal_error_rate()
    low, high = eer_interval(voices.embeddings, speakers, trials, BOOTSTRAP_SAMPLES, SEED)
    curve = trials.curve()
    marks = [["EER", threshold], *((f"{rate:.1%} false accepts", trials.threshold_at(rate)) for rate in (0.01, 0.001))]
    marks += [[f"the model’s {rate:.1%}", score] for rate, score in sorted(embedder.thresholds.items(), reverse=True)]
    return {
        "figures": {
            "eer": eer,
            "eer_low": low,
            "eer_high": high,
            "min_dcf": trials.min_dcf(),
            "auc": trials.auc(),
            **retrieve(voices.embeddings, speakers)._asdict(),
        },
        "floor_eer": (voices.evaluation or {}).get("log_mel_floor_eer"),
        "histogram": toolkit.score_histogram(trials),
        "rates": _rates(trials),
        "det": {
            "x": _probit(curve.false_accept_rate),
            "y": _probit(curve.miss_rate),
            "ticks": [[round(float(ndtri(tick)), 4), f"{100 * tick:g}"] for tick in DET_TICKS],
            "limits": _probit(np.array(DET_LIMITS)),
        },
        "marks": marks,
    }


def _rates(trials: Trials) -> dict[str, Any]:
    """How many target trials each place of the slider misses, and how many non-target trials it accepts: exact counts."""
    first, last = (int(np.floor(level / LEVELS_PER_UNIT * STEPS_PER_UNIT)) for level in trials.ends())
    steps = np.arange(first, last + 2)
    levels = np.ceil(steps / STEPS_PER_UNIT * LEVELS_PER_UNIT).astype(np.int32)  # a trial is accepted at the threshold
    misses = trials.target.less_than(levels)
    false_accepts = len(trials.nontarget) - trials.nontarget.less_than(levels)
    return {
        "first": first,
        "steps_per_unit": STEPS_PER_UNIT,
        "misses": misses.tolist(),
        "false_accepts": false_accepts.tolist(),
        "n_target": len(trials.target),
        "n_nontarget": len(trials.nontarget),
        "x": _probit(false_accepts / len(trials.nontarget)),
        "y": _probit(misses / len(trials.target)),
    }


def _probit(rates: NDArray[np.float64]) -> list[float]:
    return np.round(ndtri(np.clip(rates, 1e-6, 1 - 1e-6)), 4).tolist()  # 0 and 1 are infinitely far out


def _drawn(groups: NDArray, limit: int) -> NDArray[np.intp]:
    """Indices of at most ``limit`` recordings: all, or those of the groups that a draw puts first."""
    ids, codes = np.unique(groups, return_inverse=True)
    turn = np.random.default_rng(SEED).permutation(len(ids))[codes]
    return np.sort(np.argsort(turn, kind="stable")[:limit])


def _plane(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    perplexity = min(PERPLEXITY, (len(embeddings) - 1) / 3)
    # scikit-learn's other start, by principal components, divides by zero where all embeddings are the same
    return TSNE(perplexity=perplexity, init="random", random_state=SEED).fit_transform(embeddings).astype(np.float64)


def _listenable(voices: Voices, groups: Sequence[Sequence[int]]) -> dict[int, str]:
    """The recordings at these indices to listen to, earlier groups first, as many as there is room for."""
    clips = ((index, *clip) for indices in groups for index, clip in zip(indices, voices.audio(indices), strict=True))
    return toolkit.embed_audio(tqdm(clips, "audio", sum(map(len, groups)), unit="recording", disable=None))


# --- the page -----------------------------------------------------------------------------------------------------------


def render(data: dict[str, Any]) -> str:
    """The page that shows ``data``, whole in itself."""
    sources = "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; media-src data:"
    return toolkit.fill(
        "report.html", title="Speaker report", sources=sources, plotly=get_plotlyjs(), data=toolkit.as_script(data)
    )


def write_report(voices: Voices, embedder: SpeakerEmbedder, output: str | Path, max_recordings: int = MAX_RECORDINGS) -> None:
    """Write the page to a file. Raises InputError for fewer than three recordings."""
    write_text(render(report_data(voices, embedder, max_recordings)), output)
