"""A model as `transformers.AutoModel` loads it; `speakerprint export --format huggingface` puts a copy of this file beside it.

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    model(**extractor(waveform, sampling_rate=16_000, return_tensors="pt")).embeddings

It needs `pip install 'speakerprint[pipeline]'`, whose module of the network it is a thin shell of.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import XVectorOutput

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.audio.log_mel import windows
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.params.model import Model


class SpeakerprintConfig(PretrainedConfig):
    """What `config.json` says; ``model`` has the network's settings."""

    model_type = "speakerprint"


class SpeakerprintModel(PreTrainedModel):
    """Log-mel features of recordings of any length to embeddings, as `SpeakerEmbedder` gives them."""

    config_class = SpeakerprintConfig
    base_model_prefix = "network"  # which the names of the weights do not have
    main_input_name = "input_features"

    def __init__(self, config: SpeakerprintConfig):
        super().__init__(config)
        self.network = SpeakerModel(Model.model_validate(config.model))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: each part of the network starts as it is made."""

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **_: object) -> XVectorOutput:
        """input_features: (batch, 80, frames); attention_mask: (batch, frames) or (batch, samples), 1 where one exists.

        (Whisper's extractor gives it of samples, unless it is called with return_attention_mask=True.)

        Returns ``embeddings``, (batch, embedding_dim) of unit length: of a recording longer than the model's window the direction
        of the mean over windows.
        """
        masks = torch.ones_like(input_features[:, 0]) if attention_mask is None else attention_mask
        masks = masks[:, :: masks.shape[1] // input_features.shape[2]]
        length = round(self.network.settings.window_s * FRAMES_PER_SECOND)
        rows = []
        for clip, mask in zip(input_features, masks, strict=True):
            frames: Any = clip[:, mask.bool()].T
            parts = torch.stack([part.T for part in cast(list[Tensor], windows(frames, length))])
            rows.append(F.normalize(self.network(parts).sum(dim=0), dim=0))
        return XVectorOutput(embeddings=torch.stack(rows))
