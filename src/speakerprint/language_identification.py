"""Which language is spoken: Whisper's own answer, the first token that its decoder would say, here of languages only.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022 (arXiv 2212.04356), section 2.3: the first
token that the decoder predicts is that of the language.
"""

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm
from transformers.models.whisper.tokenization_whisper import LANGUAGES as WHISPERS_LANGUAGES

from speakerprint.audio import SAMPLE_RATE_HZ, UndecodableAudio, decode, resample
from speakerprint.features import log_mel
from speakerprint.languages import SCHEMA
from speakerprint.params import Language
from speakerprint.shards import in_parallel
from speakerprint.sources.clips import read_clips
from speakerprint.store import DTYPE, pad_batch
from speakerprint.whisper import DIMS, MAX_FRAMES, WHISPER, Attention, WhisperEncoder, check_weights, obtain_whisper

LANGUAGES = list(WHISPERS_LANGUAGES)[:99]  # in the order of their tokens; later models know one more
START = 50258  # the token that every transcript starts with; those of the languages follow it
MAX_S = 30.0
CHECKPOINT_CLIPS = 512  # heard between two files that a killed run goes on from

HEARD = pa.schema(
    [
        ("recording_id", pa.string()),
        ("log_probabilities", pa.list_(pa.float32(), len(LANGUAGES))),  # null if the clip is bad
        ("problem", pa.string()),  # null unless it is
    ]
)

Hear = Callable[[list[np.ndarray]], np.ndarray]  # features, each (frames, mels) -> log-probabilities (clips, languages)


# --- the model ------------------------------------------------------------------------------------------------------


class OnlyToken(nn.Module):
    """Self-attention of a token that is alone: whatever its query and key, all it attends to is its own value."""

    def __init__(self) -> None:
        super().__init__()
        self.v_proj = nn.Linear(DIMS.width, DIMS.width)
        self.out_proj = nn.Linear(DIMS.width, DIMS.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.v_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(DIMS.width)
        self.self_attn = OnlyToken()
        self.encoder_attn_layer_norm = nn.LayerNorm(DIMS.width)
        self.encoder_attn = Attention()
        self.final_layer_norm = nn.LayerNorm(DIMS.width)
        self.fc1 = nn.Linear(DIMS.width, 4 * DIMS.width)
        self.fc2 = nn.Linear(4 * DIMS.width, DIMS.width)

    def forward(self, x: Tensor, heard: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), heard, mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class FirstStep(nn.Module):
    """Whisper's decoder at the start of a transcript.

    Parameters are named as in Hugging Face's ``WhisperDecoder``, of whose tokens it has the first and the languages', of whose
    positions the first. (That one takes no mask for what the encoder heard, and so no batch of unequal clips.)
    """

    def __init__(self, n_layers: int = DIMS.n_layers) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(1 + len(LANGUAGES), DIMS.width)
        self.embed_positions = nn.Embedding(1, DIMS.width)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(n_layers))
        self.layer_norm = nn.LayerNorm(DIMS.width)

    def forward(self, heard: Tensor, mask: Tensor | None) -> Tensor:
        """Log-probabilities of the languages, (batch, languages), which add up to one.

        heard: the encoder's output, (batch, positions, width); mask: which positions are valid, (batch, positions) bool.
        """
        x = (self.embed_tokens.weight[0] + self.embed_positions.weight[0]).expand(len(heard), 1, -1)
        for layer in self.layers:
            x = layer(x, heard, None if mask is None else mask[:, None, None])
        return (self.layer_norm(x[:, 0]) @ self.embed_tokens.weight[1:].T).log_softmax(dim=-1)


class LanguageModel(nn.Module):
    """Whisper base as far as it is needed to name a language."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = WhisperEncoder(DIMS.n_layers)
        self.decoder = FirstStep()

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Log-mel features and lengths, as `WhisperEncoder` takes them, to log-probabilities (batch, languages)."""
        states, mask = self.encoder(features, lengths)
        return self.decoder(self.encoder.final_norm(states[-1]), mask)

    @torch.inference_mode()
    def hear(self, clips: list[np.ndarray]) -> np.ndarray:
        """Log-probabilities (clips, languages) float32 of features, each (frames, mels), as one batch."""
        device = next(self.parameters()).device
        features, mask = pad_batch(clips)
        lengths = None if mask.all() else torch.from_numpy(mask.sum(axis=1)).to(device)
        return self(torch.from_numpy(features).to(device), lengths).cpu().numpy()


def load_language_model(source: str, path: str | Path) -> LanguageModel:
    """The model of the weights in ``path``, which are obtained (see whisper.obtain_whisper) if it does not exist yet.

    It is on the GPU if there is one. Raises InputError if the weights cannot be had, or are not Whisper base's.
    """
    path = Path(path)
    if path.is_file():
        check_weights(path, WHISPER)
    else:
        obtain_whisper(source, path)
    model = LanguageModel()
    with safe_open(path, framework="pt") as weights:
        used = {
            "decoder.embed_tokens.weight": slice(START, START + 1 + len(LANGUAGES)),
            "decoder.embed_positions.weight": slice(1),
        }
        model.load_state_dict({name: weights.get_slice(name)[used.get(name, slice(None))] for name in model.state_dict()})
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


# --- a corpus -------------------------------------------------------------------------------------------------------


def identify_languages(
    recordings: pd.DataFrame, settings: Language, load: Callable[[], Hear], folder: str | Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The language of each group of recordings, as a table (see `languages`), and a report.

    recordings: the schema of `recordings`, with ``group`` (see languages.groups_of). Of a group the first ``settings.clips`` are
    heard, no more once the mean of their probabilities for a language reaches ``settings.sure_probability``.
    load: gives what hears; called if there is anything to hear.
    folder: where what was heard is remembered, so that nothing is heard twice, neither after a kill nor with other settings.

    A clip that is absent, undecodable or silent is passed over and listed in the report.
    """
    recordings = recordings.sort_values(["group", "recording_id"], ignore_index=True)
    number, groups = pd.factorize(recordings["group"])
    turns = recordings.groupby("group").cumcount()
    total = np.zeros((len(groups), len(LANGUAGES)))
    n_heard = np.zeros(len(groups), np.int32)
    bad: list[dict[str, str]] = []
    memory = _Memory(Path(folder), load, settings.batch)
    for turn in range(settings.clips):
        unsure = total.max(axis=1) < settings.sure_probability * np.maximum(n_heard, 1)
        asked = (turns == turn) & unsure[number]
        clips = recordings[asked]
        heard = memory.hear(clips, f"languages, clip {turn + 1} of {settings.clips}")
        good = heard["problem"].isna().to_numpy()
        group = number[asked][good]
        total[group] += np.exp(np.reshape(heard["log_probabilities"][good].tolist(), (-1, len(LANGUAGES))))
        n_heard[group] += 1
        for clip, reason in zip(clips[~good].itertuples(), heard["problem"][~good], strict=True):
            bad.append({"recording_id": clip.recording_id, "location": clip.location, "reason": reason})
    probabilities = total / np.maximum(n_heard, 1)[:, None]
    best = probabilities.argmax(axis=1)
    codes = [LANGUAGES[i] if n else None for i, n in zip(best, n_heard, strict=True)]
    table = pd.DataFrame({"group": groups, "language": codes, "probability": probabilities.max(axis=1), "clips": n_heard})
    table["probability"] = table["probability"].where(n_heard > 0)
    by_language = table["language"].fillna("unknown").value_counts().sort_index()
    return table[SCHEMA.names], {
        "groups": len(table),
        "clips": int(n_heard.sum()),
        "by_language": {str(code): int(n) for code, n in by_language.items()},
        "bad": sorted(bad, key=lambda clip: clip["recording_id"]),
    }


class _Memory:
    """What was heard: a row of HEARD for each clip, in numbered files in ``folder``, each whole or not there."""

    def __init__(self, folder: Path, load: Callable[[], Hear], batch: int):
        self._folder, self._batch = folder, batch
        self._model = functools.cache(load)
        folder.mkdir(parents=True, exist_ok=True)
        parts = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
        heard = pa.concat_tables([HEARD.empty_table(), *parts]).to_pandas().set_index("recording_id")
        self._heard = heard[heard["problem"].isna()]  # a bad clip may have been mended: it is tried again

    def hear(self, recordings: pd.DataFrame, title: str) -> pd.DataFrame:
        """The rows of these recordings, in their order; those that were not heard yet are heard now."""
        new = recordings[~recordings["recording_id"].isin(self._heard.index)]
        parts = [self._heard]
        with tqdm(total=len(recordings), initial=len(recordings) - len(new), desc=title, unit="clip", disable=None) as bar:
            for part in self._listen(new, bar) if len(new) else ():
                self._write(part)
                parts.append(part.set_index("recording_id"))
        self._heard = pd.concat(parts) if len(parts) > 1 else self._heard
        return self._heard.reindex(recordings["recording_id"])

    def _listen(self, recordings: pd.DataFrame, bar: tqdm) -> Iterator[pd.DataFrame]:
        ids, locations = recordings["recording_id"].tolist(), recordings["location"].tolist()
        clips = ((index, data, locations[index]) for index, data in read_clips(locations))
        results = in_parallel(_features_or_problem, clips)
        while chunk := list(islice(results, CHECKPOINT_CLIPS)):
            rows = {ids[index]: (None, result if isinstance(result, str) else None) for index, result in chunk}
            good = [(ids[index], result) for index, result in chunk if not isinstance(result, str)]
            good.sort(key=lambda clip: len(clip[1]))  # so that a batch needs little padding
            bar.update(len(chunk) - len(good))
            for start in range(0, len(good), self._batch):
                names, features = zip(*good[start : start + self._batch], strict=True)
                rows |= {name: (row, None) for name, row in zip(names, self._model()(list(features)), strict=True)}
                bar.update(len(names))
            yield pd.DataFrame([(name, *row) for name, row in rows.items()], columns=HEARD.names)

    def _write(self, part: pd.DataFrame) -> None:
        path = self._folder / f"{len(list(self._folder.glob('*.parquet'))):05d}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(pa.Table.from_pandas(part, HEARD, preserve_index=False), partial)
        partial.replace(path)


def _features_or_problem(clip: tuple[int, bytes | None, str]) -> tuple[int, np.ndarray | str]:
    index, data, location = clip
    if data is None:
        return index, "there is no such file"
    try:
        samples, sample_rate_hz = decode(data, location)
    except UndecodableAudio as error:
        return index, error.reason
    samples = resample(samples[: int(MAX_S * sample_rate_hz)], sample_rate_hz, SAMPLE_RATE_HZ)
    if not samples.any():
        return index, "digital silence, or nothing"
    return index, log_mel(samples)[:MAX_FRAMES].astype(DTYPE)
