"""A model's network at work: log-mel features in, embeddings out, by ONNX Runtime.

On a processor it multiplies 8-bit integers, if the folder has a graph for that; on a GPU it computes in float32.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speakerprint.audio.dimensions import FRAMES_PER_SECOND
from speakerprint.audio.log_mel import windows
from speakerprint.errors import InputError
from speakerprint.inference.model_folder import GRAPH, INTEGER_GRAPH, ModelFolder, read_model
from speakerprint.runtime import CUDA, Device, open_session, usable_providers

WINDOWS_AT_ONCE = {"cpu": 4, "cuda": 64}  # of more, what lies between the layers does not fit into a processor's cache


class Network:
    """The network of a model folder. Threads may share one."""

    def __init__(self, folder: str | Path, device: Device = "cpu", in_float32: bool = False):
        """device: auto is a GPU where ONNX Runtime can use one. in_float32: on a processor too, for comparisons.

        Raises InputError as `read_model` and `open_session` do.
        """
        self._device, self._in_float32 = device, in_float32
        self.model: ModelFolder = read_model(folder)
        float32 = in_float32 or CUDA in usable_providers(device) or INTEGER_GRAPH not in self.model.config["files"]
        self._session = open_session(self.model.path / (GRAPH if float32 else INTEGER_GRAPH), device)
        self._refuse_another_shape()
        on_gpu = CUDA in self._session.get_providers()
        self._at_once = WINDOWS_AT_ONCE["cuda" if on_gpu else "cpu"] if float32 else 1  # see model.onnx_graph.IntegerGraph

    def _refuse_another_shape(self) -> None:
        """Raise InputError where the graph does not give what the config promises."""
        gives = {output.name: output.shape for output in self._session.get_outputs()}
        if [len(shape) and shape[-1] for name, shape in gives.items() if name == "embedding"] != [self.model.embedding_dim]:
            raise InputError(
                f"the graph in {self.model.path} gives {gives}, and its config promises embeddings of {self.model.embedding_dim} "
                "numbers; get or make the model again"
            )

    def __reduce__(self) -> tuple[type["Network"], tuple[Path, Device, bool]]:
        """To another process goes where the model is, and not the session of ONNX Runtime: the folder is read again there."""
        return Network, (self.model.path, self._device, self._in_float32)

    def embed_frames(self, clips: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embed recordings of any length.

        A recording longer than the model's window is heard in windows of that length, spread evenly over it, overlapping if need
        be; its embedding is the direction of their mean. (Whisper adds to each frame where it stands: beyond the length of the
        crops that a model was trained on, it would hear what it has never heard.) Windows of one length are run together, so
        nothing is padded.

        clips: each (frames, 80) log-mel features. Returns (clips, embedding_dim) float32 of unit length.
        Raises InputError where the network's answer is no number.
        """
        parts, owner = [], []
        for index, clip in enumerate(clips):
            own = windows(clip, round(self.model.window_s * FRAMES_PER_SECOND))
            parts += own
            owner += [index] * len(own)
        sums = np.zeros((len(clips), self.model.embedding_dim), np.float32)
        for chosen in self._batches([len(part) for part in parts]):
            features = np.stack([parts[index].T for index in chosen])
            (rows,) = self._session.run(["embedding"], {"features": np.ascontiguousarray(features, dtype=np.float32)})
            np.add.at(sums, [owner[index] for index in chosen], rows)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise InputError(f"the model in {self.model.path} gives embeddings that are not finite; get or make it again")
        return sums / lengths

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Indices of parts of one length, at most so many at once."""
        of_length: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            of_length.setdefault(length, []).append(index)
        step = self._at_once
        return [group[start : start + step] for group in of_length.values() for start in range(0, len(group), step)]
