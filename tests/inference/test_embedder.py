"""The public API."""

import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import speakerprint
from speakerprint import SpeakerEmbedder, calibrate
from speakerprint.audio.resample import resample
from speakerprint.errors import InputError
from speakerprint.inference import network
from speakerprint.inference.model_folder import SHIPPED
from speakerprint.inference.network import Network
from speakerprint.model.speaker_model import SpeakerModel
from tests.helpers import narrow_encoders, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "model"
    SpeakerModel(tiny_model()).save(folder, "a run")
    return folder


@pytest.fixture
def embedder(saved, tmp_path) -> SpeakerEmbedder:
    shutil.copytree(saved, tmp_path / "model")
    return SpeakerEmbedder.load(tmp_path / "model")


def tone(seconds=1.0, sample_rate_hz=16_000, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * sample_rate_hz)) / sample_rate_hz
    return (0.3 * np.sin(2 * np.pi * rng.uniform(100, 400) * t) + 0.01 * rng.normal(size=len(t))).astype(np.float32)


@pytest.mark.slow
def test_an_embedding_is_a_unit_vector(embedder):
    embedding = embedder.embed(tone(), 16_000)
    assert embedding.shape == (12,) and embedding.dtype == np.float32 and embedder.embedding_dim == 12
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_the_id_of_a_model_says_what_embeds(embedder, tmp_path):
    model = SpeakerModel.load(tmp_path / "model")
    model.save(tmp_path / "again", "another run", thresholds={0.01: 0.3})
    assert SpeakerEmbedder.load(tmp_path / "again").model_id == embedder.model_id and len(embedder.model_id) == 16
    with torch.no_grad():
        next(model.projection.parameters()).view(-1)[0] += 1e-3
    model.save(tmp_path / "changed", "a run")
    assert SpeakerEmbedder.load(tmp_path / "changed").model_id != embedder.model_id


def test_stereo_and_integers_are_the_same_recording(embedder):
    wave = tone()
    expected = embedder.embed(wave, 16_000)
    np.testing.assert_allclose(embedder.embed(np.stack([wave, wave], axis=1), 16_000), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed((wave * 2**31).astype(np.int32), 16_000), expected, atol=1e-4)
    np.testing.assert_allclose(embedder.embed(np.rint(wave * 2**15 + 2**15).astype(np.uint16), 16_000), expected, atol=1e-2)


@pytest.mark.parametrize(
    "as_given",
    [
        list,
        lambda wave: [[sample, sample] for sample in wave.tolist()],
        torch.from_numpy,
        lambda wave: torch.from_numpy(wave).double().requires_grad_() * 1,
        lambda wave: torch.from_numpy(np.stack([wave, wave])),  # as torchaudio gives it
        lambda wave: np.stack([wave] * 64, axis=1),
        lambda wave: np.stack([wave] * 64),
        lambda wave: wave[None],
        lambda wave: wave[:, None],
    ],
)
def test_arrays_lists_and_tensors_with_channels_first_or_last_are_the_same_recording(embedder, as_given):
    # a mean of 64 channels is rounded, and a sample that differs by a bit may take another step of 8-bit integers
    np.testing.assert_allclose(embedder.embed(as_given(tone()), 16_000), embedder.embed(tone(), 16_000), atol=5e-3)


@pytest.mark.parametrize("as_given", [lambda wave: wave.bfloat16(), lambda wave: wave.half()])
def test_tensors_of_less_precision_are_taken_too(embedder, as_given):
    assert embedder.embed(as_given(torch.from_numpy(tone())), 16_000) @ embedder.embed(tone(), 16_000) > 0.99


@pytest.mark.parametrize("loudest", [2**15, 2**31])
def test_pythons_integers_are_samples_of_the_width_that_holds_them(embedder, loudest):
    whole_numbers = np.rint(tone() * loudest).astype(int).tolist()
    np.testing.assert_allclose(embedder.embed(whole_numbers, 16_000), embedder.embed(tone(), 16_000), atol=1e-2)


def test_several_waveforms_give_what_each_gives(embedder):
    waves = [tone(seconds, seed=number) for number, seconds in enumerate((1.0, 0.5, 1.0))]
    expected = [embedder.embed(wave, 16_000) for wave in waves]
    np.testing.assert_allclose(embedder.embed_waveforms(waves, 16_000), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed_waveforms(iter(waves), 16_000), expected, atol=1e-5)
    assert embedder.embed_waveforms([], 16_000).shape == (0, 12)


def test_files_are_embedded_in_the_order_given(embedder, tmp_path):
    paths = []
    for i, seconds in enumerate([2.0, 0.5, 1.0]):
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], tone(seconds, seed=i), 16_000, subtype="FLOAT")
    expected = np.stack([embedder.embed(tone(seconds, seed=i), 16_000) for i, seconds in enumerate([2.0, 0.5, 1.0])])
    np.testing.assert_allclose(embedder.embed_files(paths), expected, atol=1e-5)


def test_a_recording_may_be_a_path_a_file_or_its_bytes_and_several_any_iterable(embedder, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16_000, subtype="FLOAT")
    expected = embedder.embed_files([path])
    for given in (path, str(path), path.read_bytes(), path.open("rb"), io.BytesIO(path.read_bytes()), (one for one in [path])):
        np.testing.assert_array_equal(embedder.embed_files(given), expected)
    assert embedder.embed_files(iter([])).shape == (0, 12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda path: [path.read_bytes(), b"text"], r"recording 2 \(bytes\): neither libsndfile nor FFmpeg can read it"),
        (lambda path: path.open(errors="replace"), r"a\.wav: was opened to read text; .* mode 'rb'"),
        (lambda path: [3.0], "recording 1 is of type float, expected a path, a file or its bytes; for waveforms"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_remedy(embedder, tmp_path, given, message):
    soundfile.write(tmp_path / "a.wav", tone(), 16_000)
    with pytest.raises(InputError, match=message):
        embedder.embed_files(given(tmp_path / "a.wav"))


def test_recordings_are_read_while_they_are_asked_for_and_bad_ones_told_of(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(speakerprint.inference.embedder, "FILES_AT_ONCE", 4)
    soundfile.write(tmp_path / "a.wav", tone(), 16_000)
    asked, refused = [], []

    def names():
        for number in range(1000):
            asked.append(number)
            yield tmp_path / ("none.wav" if number == 1 else "a.wav")

    each = embedder.embed_each(names(), lambda name, error: refused.append((name.name, str(error))))
    assert [next(each)[0].name for _ in range(4)] == 4 * ["a.wav"] and len(asked) < 30
    assert len(refused) == 1 and refused[0][0] == "none.wav" and "No such file" in refused[0][1]
    each.close()


def test_a_missing_file_is_named(embedder, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.wav: cannot be read \(No such file"):
        embedder.embed_files([tmp_path / "nowhere.wav"])


def test_a_file_that_is_not_audio_is_named(embedder, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(InputError, match=r"text\.wav: neither libsndfile nor FFmpeg can read it"):
        embedder.embed_files([tmp_path / "text.wav"])


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros((2, 2, 2)), 16_000, "shape"),
        (
            np.ones((400, 300)),
            16_000,
            r"shape \(400, 300\), of which neither axis is surely the channels .* give it as \(samples,\)",
        ),
        ([tone(), tone()], 16_000, "is a list of arrays, expected one; for several recordings there is `embed_waveforms`"),
        ([[0.1, 0.2], [0.3]], 16_000, r"is no array of numbers \("),
        (np.zeros(16_000), 0, "sample rate"),
        (np.zeros(100), 16_000, "at least 0.1 s"),
        (np.full(16_000, np.nan), 16_000, "not finite"),
        (np.sin(np.arange(16_000)), np.nan, "sample rate is nan Hz"),  # which the resampler never returns from
        (np.sin(np.arange(16_000)), "16000", "sample rate is '16000' Hz"),
        (1e25 * np.sin(np.arange(16_000)), 16_000, r"values up to \S+e\+2\d, expected -1 to 1"),  # an embedding of NaN
        (np.exp(1j * np.arange(16_000)), 16_000, "values of type complex128"),
        (np.array(["0.1"] * 16_000), 16_000, "values of type <U3"),
        (np.zeros(16_000), 16_000, "waveform: is digital silence, every sample 0;"),
        (np.full(16_000, 128, np.uint8), 16_000, "digital silence"),
    ],
)
def test_bad_waveforms_are_refused_with_a_reason(embedder, waveform, rate, message):
    with pytest.raises(InputError, match=message):
        embedder.embed(waveform, rate)


def test_a_silent_file_is_named(embedder, tmp_path):
    soundfile.write(tmp_path / "muted.wav", np.zeros(16_000), 16_000)
    with pytest.raises(InputError, match=r"muted\.wav: is digital silence"):
        embedder.embed_files([tmp_path / "muted.wav"])


def test_threads_share_an_embedder(embedder):
    waves = [tone(0.5 + 0.1 * i, seed=i) for i in range(8)]
    alone = [embedder.embed(wave, 16_000) for wave in waves]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda wave: embedder.embed(wave, 16_000), 3 * waves))
    np.testing.assert_array_equal(together, 3 * alone)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_files_give_what_they_give_alone(tmp_path, embedder, monkeypatch, at_once):
    monkeypatch.setattr(network, "WINDOWS_AT_ONCE", {"cpu": at_once})
    monkeypatch.setattr(speakerprint.inference.embedder, "FILES_AT_ONCE", 3)
    waves = [tone(seconds, seed=i) for i, seconds in enumerate([2.0, 0.5, 1.0, 1.0, 0.7])]
    for i, wave in enumerate(waves):
        soundfile.write(tmp_path / f"{i}.wav", wave, 16_000, subtype="FLOAT")
    found = SpeakerEmbedder.load(tmp_path / "model").embed_files([tmp_path / f"{i}.wav" for i in range(5)])
    np.testing.assert_allclose(found, [embedder.embed(wave, 16_000) for wave in waves], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layer_combination", ["concatenate", "last"])
@pytest.mark.parametrize("pooling", ["mean", "attentive_statistics"])
@pytest.mark.parametrize("projection", ["discriminant", "mlp"])
@pytest.mark.parametrize("half", [False, True])
def test_onnx_runtime_embeds_any_model_and_any_length_as_torch_does(
    tmp_path, monkeypatch, layer_combination, pooling, projection, half
):
    narrow_encoders(monkeypatch)  # the shipped model is as wide as Whisper's
    torch.manual_seed(0)
    kind = {"layer_combination": layer_combination, "pooling": pooling, "projection": projection}
    SpeakerModel(tiny_model(layers=2, window_s=0.5, **kind)).save(tmp_path, "a run", half=half)
    clips = [np.random.default_rng(n).normal(size=(n, 80)).astype(np.float32) for n in (1, 2, 49, 50, 51, 100, 130)]
    found, expected = Network(tmp_path, in_float32=True).embed_frames(clips), SpeakerModel.load(tmp_path).embed_frames(clips)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)
    by_integers = SpeakerEmbedder.load(tmp_path).embed_frames(clips)
    assert 0.98 <= (by_integers * expected).sum(axis=1).min() < 0.999999


@pytest.mark.slow
def test_the_shipped_model_gives_the_scores_that_torch_gives():
    clips = [np.random.default_rng(n).normal(size=(n, 80)).astype(np.float32) for n in (100, 399, 401, 1000)]
    found, expected = Network(SHIPPED, in_float32=True).embed_frames(clips), SpeakerModel.load(SHIPPED).embed_frames(clips)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)


@pytest.mark.parametrize(
    ("device", "message"),
    [("tpu", "the device is 'tpu', expected one of auto, cpu, cuda"), ("cuda", "has no CUDA; .* pip install 'onnxruntime-gpu")],
)
def test_a_device_that_is_not_there_is_refused_with_the_remedy(embedder, tmp_path, device, message):
    with pytest.raises(InputError, match=message):
        SpeakerEmbedder.load(tmp_path / "model", device)


def test_auto_is_the_cpu_where_there_is_no_gpu(embedder, tmp_path):
    found = SpeakerEmbedder.load(tmp_path / "model", "auto").embed(tone(), 16_000)
    np.testing.assert_array_equal(found, embedder.embed(tone(), 16_000))


def in_chunks(wave, size):
    return (wave[start : start + size] for start in range(0, len(wave), size))


@pytest.mark.parametrize("size", [100, 7_000, 1_000_000])
def test_a_stream_is_embedded_as_its_windows_are(embedder, size):
    wave = tone(5.2)
    found = list(embedder.embed_stream(in_chunks(wave, size), 16_000, window_s=2.0, step_s=1.5))
    assert [(window.start_s, window.end_s) for window in found] == [(0, 2), (1.5, 3.5), (3, 5)]
    for start_s, end_s, embedding in found:
        np.testing.assert_allclose(
            embedding, embedder.embed(wave[int(16_000 * start_s) : int(16_000 * end_s)], 16_000), atol=1e-6
        )


@pytest.mark.parametrize(
    ("duration_s", "ends_s"),
    [
        (0.3, [0.3]),  # the first is never too short
        (2.0, [2.0]),  # another would hold nothing new
        (2.4, [2.0]),  # another would be 0.4 s long
        (3.0, [2.0, 3.0]),  # a half
        (3.5, [2.0, 3.5]),
        (4.5, [2.0, 4.0]),
    ],
)
def test_the_last_window_ends_with_the_recording_if_half_of_it_is_there(embedder, duration_s, ends_s):
    found = list(embedder.embed_stream([tone(duration_s)], 16_000, window_s=2.0, step_s=2.0))
    assert [window.end_s for window in found] == pytest.approx(ends_s)


@pytest.mark.slow
def test_by_default_the_windows_are_the_models_and_half_of_each_is_in_the_next(embedder):
    assert [window.start_s for window in embedder.embed_stream([tone(60)], 16_000)] == [0, 15, 30]


def test_a_stream_at_another_rate_has_no_seams(embedder):
    wave = tone(3.1, sample_rate_hz=44_100)
    stereo = np.stack([wave, wave], axis=1)
    whole = resample(wave, 44_100, 16_000)
    found = list(embedder.embed_stream(in_chunks(stereo, 777), 44_100, window_s=1.0, step_s=1.0))
    assert [window.end_s for window in found] == [1, 2, 3]
    for start_s, end_s, embedding in found:
        np.testing.assert_allclose(
            embedding, embedder.embed(whole[int(16_000 * start_s) : int(16_000 * end_s)], 16_000), atol=1e-5
        )


def test_a_streams_short_last_chunk_has_its_channels_where_the_others_have_them(embedder):
    stereo = np.stack([tone(1.0), np.zeros(16_000, np.float32)])[:, :-5]
    for chunks in ([stereo[:, :9_000], stereo[:, 9_000:15_993], stereo[:, 15_993:]], [stereo.T[:15_993], stereo.T[15_993:]]):
        (window,) = embedder.embed_stream(chunks, 16_000)
        np.testing.assert_allclose(window.embedding, embedder.embed(stereo, 16_000), atol=1e-5)
    with pytest.raises(InputError, match="chunk: has shape"):
        list(embedder.embed_stream([stereo[:, :3]], 16_000))


def test_a_window_is_there_before_the_stream_goes_on(embedder):
    heard = []

    def microphone():
        while True:
            heard.append(1)
            yield tone(0.5, seed=len(heard))

    windows = embedder.embed_stream(microphone(), 16_000, window_s=1.0, step_s=0.5)
    assert [next(windows).start_s for _ in range(3)] == [0, 0.5, 1] and len(heard) == 4


def test_silent_windows_are_left_out(embedder):
    wave = np.concatenate([tone(1), np.zeros(16_000, np.float32), tone(1)])
    found = embedder.embed_stream([wave], 16_000, window_s=1.0, step_s=1.0)
    assert [window.start_s for window in found] == [0, 2]


@pytest.mark.parametrize(
    ("chunks", "options", "message"),
    [
        ([np.ones(16_000)], {"step_s": 0}, "expected a step above 0"),
        ([np.ones(16_000)], {"window_s": 1.0, "step_s": 1.5}, r"windows of 1\.0 s every 1\.5 s"),
        ([np.full(16_000, np.inf)], {}, "chunk: holds values that are not finite"),
        ([], {}, r"lasts 0\.000 s"),
    ],
)
def test_bad_streams_are_refused_with_a_reason(embedder, chunks, options, message):
    with pytest.raises(InputError, match=message):
        list(embedder.embed_stream(chunks, 16_000, **options))


def test_the_package_offers_the_embedder_and_nothing_it_has_not(embedder, tmp_path):
    assert speakerprint.SpeakerEmbedder is SpeakerEmbedder
    assert speakerprint.load(tmp_path / "model").model_id == embedder.model_id
    with pytest.raises(AttributeError):
        speakerprint.NoSuchThing  # noqa: B018


def test_two_recordings_are_judged_at_the_models_threshold(embedder, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seed=seed), 16_000, subtype="FLOAT")
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    rows = embedder.embed_files([a, b])
    score = float(rows[0] @ rows[1])
    embedder.thresholds = {0.01: score - 1e-5, 0.001: score + 0.01}
    assert embedder.verify(a, b) == (pytest.approx(score, abs=5e-6), True, score - 1e-5, 0.01, None, ())
    assert embedder.verify(a, b, 0.001).same_speaker is False
    with pytest.raises(InputError, match=r"no threshold for a false-accept rate of 0\.5; there is: 0\.01, 0\.001"):
        embedder.verify(a, b, 0.5)


def test_files_waveforms_and_embeddings_are_judged_alike(embedder, tmp_path):
    waves = tone(), tone(seed=1)
    for name, wave in zip("ab", waves, strict=True):
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000, subtype="FLOAT")
    files, rows = (tmp_path / "a.wav", tmp_path / "b.wav"), embedder.embed_waveforms(waves, 16_000)
    embedder.thresholds = {0.01: 0.4, 0.001: 0.5}
    expected = embedder.verify(*files)
    for found in (
        embedder.verify(*waves, sample_rate_hz=16_000),
        embedder.verify(*rows),
        embedder.verify(rows[0].tolist(), 3 * rows[1]),  # any length: a mean of several, say
        embedder.verify(files[0].read_bytes(), torch.from_numpy(rows[1])),
        embedder.verify(files[0], waves[1], sample_rate_hz=16_000),
    ):
        assert found == (pytest.approx(expected.score, abs=1e-5), *expected[1:])
    with pytest.raises(InputError, match=r"shape \(16000,\), which is no embedding of this model, \(12,\); .* sample_rate_hz"):
        embedder.verify(*waves)


def test_a_threshold_or_a_rate_may_be_ones_own(embedder):
    row = embedder.embed(tone(), 16_000)
    embedder.thresholds = {0.01: 0.4, 0.001: 0.5}
    assert 0.4 < embedder.verify(row, row, 0.005).threshold < 0.5
    given = embedder.verify(row, row, threshold=0.3)
    assert (given.threshold, given.false_accept_rate, given.same_speaker) == (0.3, None, True)


def test_what_is_returned_says_what_it_is(embedder, tmp_path):
    assert repr(embedder).startswith(f"SpeakerEmbedder({str(tmp_path / 'model')!r}, model_id=")
    (window,) = embedder.embed_stream([tone()], 16_000)
    assert repr(window) == "Window(start_s=0, end_s=1, embedding=(12,))"
    row = embedder.embed(tone(), 16_000)
    assert "same_speaker=True, threshold=0.3, false_accept_rate=None" in repr(embedder.verify(row, row, threshold=0.3))


def test_a_calibration_brings_its_own_threshold_and_what_the_score_is_worth(embedder, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seed=seed), 16_000, subtype="FLOAT")
    voices = np.repeat(np.eye(3, 12), 2, axis=0) + np.random.default_rng(0).normal(scale=0.1, size=(6, 12))
    calibration = calibrate(voices, list("aabbcc"), model_id=embedder.model_id)
    found = embedder.verify(tmp_path / "a.wav", tmp_path / "b.wav", 0.01, calibration)
    assert found.threshold == calibration.threshold(0.01) and found.same_speaker == (found.score >= found.threshold)
    assert found.log_likelihood_ratio == pytest.approx(calibration.slope * found.score + calibration.offset)
    with pytest.raises(InputError, match=f"is of model another, not of {embedder.model_id}"):
        embedder.verify(tmp_path / "a.wav", tmp_path / "b.wav", 0.01, calibration.model_copy(update={"model_id": "another"}))


def test_thresholds_come_with_the_model(tmp_path, embedder):
    SpeakerModel.load(tmp_path / "model").save(tmp_path / "judged", "a run", thresholds={"0.01": 0.4})
    assert SpeakerEmbedder.load(tmp_path / "judged").thresholds == {0.01: 0.4}
