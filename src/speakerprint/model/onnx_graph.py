"""The model as an ONNX graph, which inference runs: log-mel features of one length in, embeddings out.

The graph holds no weights. Each of its tensors is a stretch of the `model.safetensors` beside it, which ONNX Runtime maps into
memory: what training goes on from and what embeds are the same bytes.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from speakerprint.audio.dimensions import FRAMES_PER_SECOND, HOP_LENGTH, N_FFT, N_MELS
from speakerprint.audio.log_mel import mel_filters
from speakerprint.inference.model_folder import GRAPH, WEIGHTS
from speakerprint.params.model import Model

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # of ONNX 1.15, which brought that opset
DTYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16}
LENGTH_BYTES = 8  # a safetensors file begins with its header's length
WIDTH, HEAD_WIDTH = 512, 64  # of Whisper base


def write_onnx(settings: Model, folder: Path) -> None:
    """Write the graph of the model whose weights are in a folder beside them, for inference to run."""
    (folder / GRAPH).write_bytes(build_graph(settings, folder / WEIGHTS).SerializeToString())


def build_graph(settings: Model, weights: Path) -> onnx.ModelProto:
    """The graph of a model: `features`, (batch, 80, frames) with every frame valid, to `embedding`, (batch, embedding_dim).

    weights: the `model.safetensors` that the graph is to stand beside. Batch and frames (1 to 3000) are free.
    """
    graph = Graph(weights)
    embedding = embed(graph, settings, "features")
    return graph.model({"features": ["batch", N_MELS, "frames"]}, embedding, settings.embedding_dim)


def build_waveform_graph(settings: Model, weights: Path) -> onnx.ModelProto:
    """A graph that embeds as `SpeakerEmbedder.embed`: `waveform`, (batch, samples) at 16 kHz, to `embedding`, (batch, dim).

    The recordings of a batch have one length, at least 0.1 s. Log-mel features and windows are in the graph.
    """
    graph = Graph(weights)
    features, n_frames = _log_mel(graph, "waveform")
    parts, count = _windows(graph, features, n_frames, round(settings.window_s * FRAMES_PER_SECOND))
    embeddings = graph.shaped(embed(graph, settings, parts), -1, count, settings.embedding_dim)
    mean = graph.unit(graph.op("ReduceSum", embeddings, graph.constant([1]), keepdims=0))
    return graph.model({"waveform": ["batch", "samples"]}, mean, settings.embedding_dim)


class Graph:
    """Nodes in the order they are computed in; a method adds some and returns the name of what they compute."""

    def __init__(self, weights: Path):
        with weights.open("rb") as file:
            header = int.from_bytes(file.read(LENGTH_BYTES), "little")
            self.stored = json.loads(file.read(header))
        self.file, self.data_start = weights.name, LENGTH_BYTES + header
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{len(self.nodes)}.{kind}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values: Any, dtype: type = np.int64) -> str:
        array: np.ndarray = np.asarray(values, dtype)
        name = f"{array.dtype} {array.tolist()}" if array.size < 8 else f"constant {len(self.tensors)}"
        self.tensors.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str) -> str:
        """A stored tensor, in float32."""
        entry = self.stored[name]
        if name not in self.tensors:
            tensor = TensorProto(name=name, data_type=DTYPES[entry["dtype"]], dims=entry["shape"])
            tensor.data_location = TensorProto.EXTERNAL
            start, end = entry["data_offsets"]
            for key, value in {"location": self.file, "offset": self.data_start + start, "length": end - start}.items():
                tensor.external_data.add(key=key, value=str(value))
            self.tensors[name] = tensor
        return name if entry["dtype"] == "F32" else self.op("Cast", name, to=TensorProto.FLOAT)

    def linear(self, x: str, name: str) -> str:
        """A linear layer of (n, in): (n, out)."""
        bias = [self.weight(f"{name}.bias")] if f"{name}.bias" in self.stored else []
        return self.op("Gemm", x, self.weight(f"{name}.weight"), *bias, transB=1)

    def norm(self, x: str, name: str) -> str:
        """Layer normalisation of (n, width)."""
        return self.op("LayerNormalization", x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), axis=-1)

    def convolution(self, x: str, name: str, **attributes: Any) -> str:
        return self.op("Conv", x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), **attributes)

    def unit(self, x: str) -> str:
        """Rows of (n, dim) at length 1, as torch's `normalize`."""
        length = self.op("ReduceL2", x, self.constant([1]), keepdims=1)
        return self.op("Div", x, self.op("Max", length, self.constant(1e-12, np.float32)))

    def shaped(self, x: str, *sizes: str | int) -> str:
        """Another shape; each size is a number, or the name of where it is computed."""
        return self.op("Reshape", x, self.op("Concat", *(self.constant([n]) if isinstance(n, int) else n for n in sizes), axis=0))

    def model(self, inputs: dict[str, list[str | int]], output: str, embedding_dim: int) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], ["embedding"]))
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", embedding_dim])
        graph = helper.make_graph(self.nodes, "speakerprint", given, [embedding], list(self.tensors.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="speakerprint")


def embed(graph: Graph, settings: Model, features: str) -> str:
    """`SpeakerModel.forward` of features whose frames are all valid."""
    x, batch, positions = _positions(graph, features)
    layers = []
    for number in range(settings.layers):
        x = _encoder_layer(graph, x, f"encoder.layers.{number}", batch, positions)
        layers.append(x)
    width = WIDTH
    if settings.layer_combination == "concatenate":
        ones = graph.constant(np.ones(WIDTH), np.float32)
        x = graph.op("Concat", *(graph.op("LayerNormalization", layer, ones, axis=-1) for layer in layers), axis=-1)
        width *= settings.layers
    else:
        x = graph.norm(x, "encoder.layer_norm")
    pool = _attentive_statistics if settings.pooling == "attentive_statistics" else _mean
    return graph.unit(_projection(graph, pool(graph, x, batch, positions, width), settings.projection))


def _positions(graph: Graph, features: str) -> tuple[str, str, str]:
    """What the encoder's layers begin with, (batch · positions, width), and the names of both sizes."""
    x = graph.op("Gelu", graph.convolution(features, "encoder.conv1", pads=[1, 1]))
    x = graph.op("Gelu", graph.convolution(x, "encoder.conv2", pads=[1, 1], strides=[2]))
    x = graph.op("Transpose", x, perm=[0, 2, 1])
    batch, positions = (graph.op("Shape", x, start=axis, end=axis + 1) for axis in (0, 1))
    places = graph.op("Slice", graph.weight("encoder.embed_positions.weight"), graph.constant([0]), positions)
    return graph.shaped(graph.op("Add", x, places), -1, WIDTH), batch, positions


def _encoder_layer(graph: Graph, x: str, name: str, batch: str, positions: str) -> str:
    normed = graph.norm(x, f"{name}.self_attn_layer_norm")

    def projected(part: str, perm: list[int]) -> str:
        projection = graph.linear(normed, f"{name}.self_attn.{part}_proj")
        return graph.op("Transpose", graph.shaped(projection, batch, positions, WIDTH // HEAD_WIDTH, HEAD_WIDTH), perm=perm)

    queries, keys, values = projected("q", [0, 2, 1, 3]), projected("k", [0, 2, 3, 1]), projected("v", [0, 2, 1, 3])
    scores = graph.op("Mul", graph.op("MatMul", queries, keys), graph.constant(1 / math.sqrt(HEAD_WIDTH), np.float32))
    heard = graph.op("Transpose", graph.op("MatMul", graph.op("Softmax", scores, axis=-1), values), perm=[0, 2, 1, 3])
    x = graph.op("Add", x, graph.linear(graph.shaped(heard, -1, WIDTH), f"{name}.self_attn.out_proj"))
    inner = graph.op("Gelu", graph.linear(graph.norm(x, f"{name}.final_layer_norm"), f"{name}.fc1"))
    return graph.op("Add", x, graph.linear(inner, f"{name}.fc2"))


def _mean(graph: Graph, x: str, batch: str, positions: str, width: int) -> str:
    return graph.op("ReduceMean", graph.shaped(x, batch, positions, width), graph.constant([1]), keepdims=0)


def _attentive_statistics(graph: Graph, x: str, batch: str, positions: str, width: int) -> str:
    """(batch · positions, width) to means and standard deviations, (batch, 2 · width)."""
    over_positions, sizes = graph.constant([1]), (batch, positions, width)
    scores = graph.linear(graph.op("Tanh", graph.linear(x, "pooling.score.0")), "pooling.score.2")
    x, weights = graph.shaped(x, *sizes), graph.op("Softmax", graph.shaped(scores, *sizes), axis=1)
    weighted = graph.op("Mul", weights, x)
    mean = graph.op("ReduceSum", weighted, over_positions, keepdims=0)
    square = graph.op("ReduceSum", graph.op("Mul", weighted, x), over_positions, keepdims=0)
    variance = graph.op("Sub", square, graph.op("Mul", mean, mean))
    std = graph.op("Sqrt", graph.op("Max", variance, graph.constant(1e-5, np.float32)))
    return graph.op("Concat", mean, std, axis=1)


def _projection(graph: Graph, x: str, projection: str) -> str:
    if projection == "discriminant":
        x = graph.op("Div", graph.op("Sub", x, graph.weight("projection.mean")), graph.weight("projection.std"))
        return graph.linear(x, "projection.linear")
    return graph.linear(graph.op("Relu", graph.linear(x, "projection.0")), "projection.2")


def _log_mel(graph: Graph, waveform: str) -> tuple[str, str]:
    """`log_mel` of (batch, samples): (batch, 80, frames), and the number of frames."""
    sample, frequency = np.arange(N_FFT), np.arange(N_FFT // 2 + 1)[:, None]
    phase = 2 * np.pi * (sample * frequency % N_FFT) / N_FFT
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * sample / N_FFT)
    # a Fourier transform of each frame, as a convolution: every runtime has that, and few a fast one of 400 samples
    kernels = [graph.constant((hann * part(phase))[:, None], np.float32) for part in (np.cos, np.sin)]
    starts, axis = graph.constant([N_FFT // 2]), graph.constant([1])
    reflected = graph.op("Slice", waveform, starts, graph.constant([0]), axis, graph.constant([-1]))
    padding = graph.constant([0, 0, 0, N_FFT + N_FFT // 2])  # silence follows
    framed = graph.op("Unsqueeze", graph.op("Pad", graph.op("Concat", reflected, waveform, axis=1), padding), axis)
    parts = [graph.op("Conv", framed, kernel, strides=[HOP_LENGTH]) for kernel in kernels]
    power = graph.op("Add", *(graph.op("Mul", part, part) for part in parts))
    last = graph.constant([-1])  # a frame that hears nothing
    power = graph.op("Slice", power, graph.constant([0]), last, graph.constant([2]))
    mel = graph.op("MatMul", graph.constant(mel_filters().T, np.float32), power)
    log = graph.op("Log", graph.op("Max", mel, graph.constant(1e-10, np.float32)))
    log = graph.op("Mul", log, graph.constant(1 / math.log(10), np.float32))
    lowest = graph.op("Sub", graph.op("ReduceMax", log, graph.constant([1, 2])), graph.constant(8.0, np.float32))
    n_samples = graph.op("Shape", waveform, start=1, end=2)
    n_frames = graph.op("Div", graph.op("Add", n_samples, graph.constant([HOP_LENGTH - 1])), graph.constant([HOP_LENGTH]))
    log = graph.op("Slice", graph.op("Max", log, lowest), graph.constant([0]), n_frames, graph.constant([2]))
    four = graph.constant(4.0, np.float32)
    return graph.op("Div", graph.op("Add", log, four), four), n_frames


def _windows(graph: Graph, features: str, n_frames: str, window: int) -> tuple[str, str]:
    """`windows` of (batch, 80, frames): (batch · windows, 80, length), and the number of windows."""
    one, length = graph.constant([1]), graph.op("Min", n_frames, graph.constant([window]))
    count = graph.op("Div", graph.op("Add", n_frames, graph.constant([window - 1])), graph.constant([window]))

    def numbers(until: str) -> str:
        return graph.op("Range", graph.constant(0), graph.op("Squeeze", until), graph.constant(1))

    free, gaps = graph.op("Sub", n_frames, length), graph.op("Max", graph.op("Sub", count, one), one)
    exact = graph.op("Mul", *(graph.op("Cast", x, to=TensorProto.DOUBLE) for x in (numbers(count), free)))
    exact = graph.op("Div", exact, graph.op("Cast", gaps, to=TensorProto.DOUBLE))
    starts = graph.op("Cast", graph.op("Round", exact), to=TensorProto.INT64)
    chosen = graph.op("Add", graph.op("Unsqueeze", starts, one), numbers(length))  # (windows, length)
    parts = graph.op("Transpose", graph.op("Gather", features, chosen, axis=2), perm=[0, 2, 1, 3])
    return graph.shaped(parts, -1, N_MELS, length), count
