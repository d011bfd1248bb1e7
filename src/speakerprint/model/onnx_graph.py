"""The model as ONNX graphs, which inference runs: log-mel features of one length in, embeddings out.

The graphs hold no weights. Each of their tensors is a stretch of the `model.safetensors` beside them, which ONNX Runtime maps
into memory: what training goes on from and what embeds are the same bytes. One graph computes in float32. The other multiplies
matrices of 8-bit integers; it holds the steps that weights are rounded in, and ONNX Runtime rounds them when it loads the graph.
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
from speakerprint.inference.model_folder import GRAPH, INTEGER_GRAPH, WEIGHTS
from speakerprint.params.model import Model

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # of ONNX 1.15, which brought that opset
DTYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16}
LENGTH_BYTES = 8  # a safetensors file begins with its header's length
WIDTH, HEAD_WIDTH = 512, 64  # of Whisper base
ONNX_RUNTIME = "com.microsoft"  # the domain of its own operators
LARGEST_PAIR = 127  # of two neighbouring 8-bit weights, the sum of their sizes
ONE = helper.make_tensor("one", TensorProto.FLOAT, [1], [1])
FLOAT = "projection"  # of one row, which has nothing to gain from integers


def write_onnx(settings: Model, folder: Path) -> None:
    """Write both graphs of the model whose weights are in a folder beside them, for inference to run."""
    weights = folder / WEIGHTS
    for name, graph in {GRAPH: Graph(weights), INTEGER_GRAPH: IntegerGraph(weights)}.items():
        (folder / name).write_bytes(build_graph(settings, graph).SerializeToString())


def build_graph(settings: Model, graph: "Graph") -> onnx.ModelProto:
    """The graph of a model: `features`, (batch, 80, frames) with every frame valid, to `embedding`, (batch, embedding_dim).

    graph: an empty one, of the `model.safetensors` that it is to stand beside. Batch and frames (1 to 3000) are free.
    """
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

    domains: tuple[str, ...] = ()  # of operators that are not ONNX's own

    def __init__(self, weights: Path):
        with weights.open("rb") as file:
            header = int.from_bytes(file.read(LENGTH_BYTES), "little")
            self.stored = json.loads(file.read(header))
        self.path, self.data_start = weights, LENGTH_BYTES + header
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
            for key, value in {"location": self.path.name, "offset": self.data_start + start, "length": end - start}.items():
                tensor.external_data.add(key=key, value=str(value))
            self.tensors[name] = tensor
        return name if entry["dtype"] == "F32" else self.op("Cast", name, to=TensorProto.FLOAT)

    def values(self, name: str) -> np.ndarray:
        """What is stored, in float32."""
        entry = self.stored[name]
        start, end = entry["data_offsets"]
        dtype = np.dtype({"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        found = np.fromfile(self.path, dtype, (end - start) // dtype.itemsize, offset=self.data_start + start)
        return found.reshape(entry["shape"]).astype(np.float32)

    def linear(self, x: str, name: str) -> str:
        """A linear layer of (n, in): (n, out)."""
        bias = [self.weight(f"{name}.bias")] if f"{name}.bias" in self.stored else []
        return self.op("Gemm", x, self.weight(f"{name}.weight"), *bias, transB=1)

    def norm(self, x: str, name: str) -> str:
        """Layer normalisation of (n, width)."""
        return self.op("LayerNormalization", x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), axis=-1)

    def convolution(self, x: str, name: str, **attributes: Any) -> str:
        return self.op("Conv", x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), **attributes)

    def attention(self, queries: str, keys: str, values: str, batch: str, positions: str) -> str:
        """Each position, (batch · positions, width), as what it attends to of the others."""
        sizes, heads = (batch, positions, WIDTH // HEAD_WIDTH, HEAD_WIDTH), {"perm": [0, 2, 1, 3]}
        queries, values = (self.op("Transpose", self.shaped(x, *sizes), **heads) for x in (queries, values))
        keys = self.op("Transpose", self.shaped(keys, *sizes), perm=[0, 2, 3, 1])
        scores = self.op("Mul", self.op("MatMul", queries, keys), self.constant(1 / math.sqrt(HEAD_WIDTH), np.float32))
        heard = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        return self.shaped(self.op("Transpose", heard, **heads), -1, WIDTH)

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
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in self.domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="speakerprint")


class IntegerGraph(Graph):
    """A graph whose large matrices are 8-bit integers, for ONNX Runtime on a processor, and for one window at a time.

    What a matrix is multiplied with is rounded to 256 steps between its own smallest and largest value, as it comes: in a batch
    of windows, one would change the steps of another. A matrix is rounded in steps of each row's own.
    x86 processors without VNNI add the products of two neighbours in 16 bits, and cut off what exceeds them (VPMADDUBSW). A row's
    step is such that 255 times two neighbours never does, so all processors add the same integers.
    """

    domains = (ONNX_RUNTIME,)

    def linear(self, x: str, name: str) -> str:
        if name.startswith(FLOAT):
            return super().linear(x, name)
        bias = self.weight(f"{name}.bias") if f"{name}.bias" in self.stored else ""
        return self._product(x, self.weight(f"{name}.weight"), self.values(f"{name}.weight"), bias)

    def convolution(self, x: str, name: str, **attributes: Any) -> str:
        """As a product: what the kernel covers of (batch, channels, frames) side by side."""
        n_out, n_in, size = self.stored[f"{name}.weight"]["shape"]
        (before, after), (stride,) = attributes["pads"], attributes.get("strides", [1])
        axis, step = self.constant([1]), self.constant([stride])
        x = self.op("Pad", self.op("Transpose", x, perm=[0, 2, 1]), self.constant([0, before, 0, 0, after, 0]))
        last = self.op("Sub", self.op("Shape", x, start=1, end=2), self.constant([size]))  # where the kernel begins last
        ends = [self.op("Add", last, self.constant([tap + 1])) for tap in range(size)]
        taps = [self.op("Slice", x, self.constant([tap]), end, axis, step) for tap, end in enumerate(ends)]
        covered = self.op("Concat", *taps, axis=2)
        batch, positions = (self.op("Shape", covered, start=axis, end=axis + 1) for axis in (0, 1))
        kernel = self.op("Transpose", self.weight(f"{name}.weight"), perm=[0, 2, 1])
        kernel = self.op("Reshape", kernel, self.constant([n_out, size * n_in]))
        values = self.values(f"{name}.weight").transpose(0, 2, 1).reshape(n_out, -1)
        rows = self._product(self.shaped(covered, -1, size * n_in), kernel, values, self.weight(f"{name}.bias"))
        return self.op("Transpose", self.shaped(rows, batch, positions, n_out), perm=[0, 2, 1])

    def attention(self, queries: str, keys: str, values: str, batch: str, positions: str) -> str:
        parts = (self.shaped(x, batch, positions, WIDTH) for x in (queries, keys, values))
        heard = self.op("MultiHeadAttention", *parts, domain=ONNX_RUNTIME, num_heads=WIDTH // HEAD_WIDTH)
        return self.shaped(heard, -1, WIDTH)

    def _product(self, x: str, weight: str, values: np.ndarray, bias: str) -> str:
        """(n, in) times the transpose of (out, in), whose values are known, in integers: (n, out)."""
        pairs = np.abs(values).reshape(len(values), -1, 2).sum(axis=2)
        steps = self.constant(np.maximum(pairs.max(axis=1), 1e-12) / LARGEST_PAIR, np.float32)
        rounded = self.op("QuantizeLinear", weight, steps, self.constant(np.zeros(len(values)), np.int8), axis=0)
        rounded = self.op("Transpose", rounded, perm=[1, 0])
        return self.op("DynamicQuantizeMatMul", x, rounded, steps, "", bias, domain=ONNX_RUNTIME)


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
    queries, keys, values = (graph.linear(normed, f"{name}.self_attn.{part}_proj") for part in "qkv")
    heard = graph.attention(queries, keys, values, batch, positions)
    x = graph.op("Add", x, graph.linear(heard, f"{name}.self_attn.out_proj"))
    inner = graph.op("Gelu", graph.linear(graph.norm(x, f"{name}.final_layer_norm"), f"{name}.fc1"))
    return graph.op("Add", x, graph.linear(inner, f"{name}.fc2"))


def _mean(graph: Graph, x: str, batch: str, positions: str, width: int) -> str:
    return graph.op("ReduceMean", graph.shaped(x, batch, positions, width), graph.constant([1]), keepdims=0)


def _attentive_statistics(graph: Graph, x: str, batch: str, positions: str, width: int) -> str:
    """(batch · positions, width) to means and standard deviations, (batch, 2 · width)."""
    sizes = (batch, positions, width)
    ones = graph.op("ConstantOfShape", graph.op("Concat", graph.constant([1]), positions, axis=0), value=ONE)
    scores = graph.linear(graph.op("Tanh", graph.linear(x, "pooling.score.0")), "pooling.score.2")
    x, weights = graph.shaped(x, *sizes), graph.op("Softmax", graph.shaped(scores, *sizes), axis=1)
    weighted = graph.op("Mul", weights, x)
    summands = (weighted, graph.op("Mul", weighted, x))  # by a product: ReduceSum takes far longer over an axis in the middle
    mean, square = (graph.shaped(graph.op("MatMul", ones, part), batch, width) for part in summands)
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
