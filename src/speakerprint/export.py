"""A trained model for elsewhere: one ONNX graph, and the folder that the Hugging Face hub shows and serves."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from speakerprint.embedder import SpeakerEmbedder
from speakerprint.model import SpeakerModel
from speakerprint.store import FRAMES_PER_SECOND, N_MELS


class WaveformModel(nn.Module):
    """`SpeakerEmbedder.embed` as one graph, log-mel features and windows included, for recordings of one length."""

    kernels: Tensor
    mel: Tensor

    def __init__(self, model: SpeakerModel):
        super().__init__()
        self.model = model.eval()
        self.window = round(model.settings.window_s * FRAMES_PER_SECOND)
        extractor = WhisperFeatureExtractor(feature_size=N_MELS)
        self.n_fft, self.hop = extractor.n_fft, extractor.hop_length
        # a Fourier transform of each frame, as a convolution: every runtime has that, and few a fast one of 400 samples
        sample, frequency = np.arange(self.n_fft), np.arange(self.n_fft // 2 + 1)[:, None]
        phase = 2 * np.pi * (sample * frequency % self.n_fft) / self.n_fft
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * sample / self.n_fft)
        kernels = np.concatenate([hann * np.cos(phase), hann * np.sin(phase)])[:, None]
        self.register_buffer("kernels", torch.from_numpy(kernels.astype(np.float32)))
        self.register_buffer("mel", torch.from_numpy(extractor.mel_filters.T.astype(np.float32)))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """`features.log_mel` of (batch, samples): (batch, 80, frames), frames = ceil(samples / 160)."""
        n_frames = (waveform.shape[1] + self.hop - 1) // self.hop
        before = waveform[:, 1 : self.n_fft // 2 + 1].flip(1)  # its reflection; what follows it is silence
        framed = F.pad(torch.cat([before, waveform], dim=1), (0, self.n_fft + self.n_fft // 2))
        real, imaginary = F.conv1d(framed[:, None], self.kernels, stride=self.hop)[:, :, :-1].chunk(2, dim=1)
        log = (self.mel @ (real.square() + imaginary.square())).clamp(min=1e-10).log10()
        loudest = log.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(log, loudest - 8.0)[:, :, :n_frames] + 4.0) / 4.0

    def forward(self, waveform: Tensor) -> Tensor:
        """Embed (batch, samples) at 16 kHz, at least 0.1 s: (batch, embedding_dim) of unit length."""
        features = self.log_mel(waveform)
        n_frames = features.shape[2]
        count = (n_frames + self.window - 1) // self.window
        length = torch.sym_min(n_frames, self.window)
        step = (n_frames - length) / torch.sym_max(count - 1, 1)
        starts = (torch.arange(count, dtype=torch.float64) * step).round().long()
        parts = features[:, :, starts[:, None] + torch.arange(length)]  # (batch, mels, count, length)
        embeddings = self.model(parts.transpose(1, 2).flatten(0, 1))
        return F.normalize(embeddings.unflatten(0, (waveform.shape[0], count)).sum(dim=1))


def export_onnx(embedder: SpeakerEmbedder, path: str | Path) -> None:
    graph = WaveformModel(embedder.model).eval()
    shapes = {"waveform": {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=1600)}}
    program = torch.onnx.export(
        graph,
        (torch.zeros(2, 100_000),),
        input_names=["waveform"],
        output_names=["embedding"],
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    program.save(path)
