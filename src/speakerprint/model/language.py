"""Whisper as far as it is needed to name a language: the first token that its decoder would say, here of languages only.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022 (arXiv 2212.04356), section 2.3: the first
token that the decoder predicts is that of the language.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from speakerprint.audio.log_mel import pad_batch
from speakerprint.model.whisper import DIMS, WHISPER, Attention, WhisperEncoder, check_weights, obtain_whisper
from speakerprint.params.language_names import LANGUAGE_NAMES

LANGUAGES = list(LANGUAGE_NAMES)[:99]  # of Whisper base; later models know one more
START = 50258  # the token that every transcript starts with; those of the languages follow it


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
