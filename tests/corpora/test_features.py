import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor
from transformers.models.whisper import feature_extraction_whisper

from speakerprint.audio.decode import decode
from speakerprint.audio.log_mel import log_mel, mel_filters, pad_batch, windows
from speakerprint.audio.resample import resample
from speakerprint.corpora import feature_store as store
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.corpora.features import _FeatureShard, extract_corpus
from speakerprint.corpora.recordings import as_recordings
from speakerprint.corpora.resampling import read_audio, resample_corpus
from speakerprint.errors import InputError
from speakerprint.params.resample import Resample
from tests.audio.test_decode import encoded, tones

RNG = np.random.default_rng(3)
RESAMPLE = Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.5)


@pytest.fixture(autouse=True)
def in_this_process():
    with joblib.parallel_config("threading"):  # processes take seconds to start, and would not see what a test changes
        yield


def padded_to_30_s(samples):
    """The valid frames of Whisper's own features, computed by numpy: (frames, 80)."""
    extractor = WhisperFeatureExtractor()
    with pytest.MonkeyPatch.context() as patch:  # by torch they would be float32's, 3e-5 away
        patch.setattr(feature_extraction_whisper, "is_torch_available", lambda: False)
        batch = extractor(samples, sampling_rate=16_000, return_attention_mask=True, return_tensors="np")
    assert batch.input_features.shape == (1, 80, 3000)
    return batch.input_features[0].T[batch.attention_mask[0] == 1]


# --- features -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("container", ["MP3", "FLAC", "WAV", "OGG", "M4A"])
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("sample_rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_features_equal_whispers_padded_ones(container, n_channels, sample_rate_hz):
    voice = tones([220, 440, 660, 3000], sample_rate_hz, seconds=0.83)[:, None] + RNG.normal(0, 0.01, (1, n_channels))
    samples, found_hz = decode(encoded(voice.astype(np.float32).squeeze(), sample_rate_hz, container), "clip")
    samples = resample(samples, found_hz, 16_000)
    features, expected = log_mel(samples), padded_to_30_s(samples)
    assert (features.dtype, features.shape) == (np.float32, expected.shape)
    assert np.abs(features - expected).max() <= 1e-6


@pytest.mark.parametrize("n_samples", [1, 159, 160, 161, 399, 400, 16_000, 479_800])
def test_features_equal_whispers_padded_ones_at_every_length(n_samples):
    samples = RNG.normal(0, 0.1, n_samples).astype(np.float32)
    features = log_mel(samples)
    assert len(features) == -(-n_samples // 160)
    assert np.abs(features - padded_to_30_s(samples)).max() <= 1e-6


def test_the_loudest_frame_may_be_the_one_after_the_last():
    samples = RNG.normal(0, 1e-4, 16_000).astype(np.float32)
    samples[-20:] = 0.9  # in the middle of that frame, and at the end of the last one
    assert np.abs(log_mel(samples) - padded_to_30_s(samples)).max() <= 1e-6


def test_where_30_s_leave_whisper_no_silence_only_the_last_frame_differs():
    samples = RNG.normal(0, 0.1, 480_000).astype(np.float32)
    difference = np.abs(log_mel(samples) - padded_to_30_s(samples)).max(axis=1)
    assert difference[:-1].max() <= 1e-6 < difference[-1]  # Whisper's is of the clip reflected


def test_what_is_longer_than_30_s_is_not_cut():
    samples = RNG.normal(0, 0.1, 31 * 16_000).astype(np.float32)
    features = log_mel(samples)
    assert features.shape == (3100, 80)
    assert np.abs(features[3050:] - log_mel(samples[3000 * 160 :])[50:]).max() < 0.05  # only the clip's maximum differs


def test_an_empty_clip_has_no_frames():
    assert log_mel(np.zeros(0, np.float32)).shape == (0, 80)


def test_a_batch_is_padded_with_zeros_and_masked():
    short, long = RNG.normal(size=(2, 80)).astype(np.float16), RNG.normal(size=(3, 80)).astype(np.float16)
    features, mask = pad_batch([short, long])
    assert (features.dtype, features.shape, mask.dtype) == (np.float32, (2, 80, 3), np.int64)
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    np.testing.assert_array_equal(features[0], np.vstack([short, np.zeros((1, 80))]).T)
    np.testing.assert_array_equal(features[1], long.T)


@given(st.integers(1, 700), st.integers(1, 300))
def test_windows_are_whole_start_and_end_with_the_clip_and_leave_nothing_out(frames, n_frames):
    clip = np.arange(frames)[:, None]
    parts = windows(clip, n_frames)
    assert {len(part) for part in parts} == {min(frames, n_frames)}
    assert parts[0][0] == 0 and parts[-1][-1] == frames - 1
    assert len(np.unique(np.concatenate(parts))) == frames
    assert len(parts) == max(1, -(-frames // n_frames))


def test_the_mel_filters_are_whispers():
    np.testing.assert_allclose(mel_filters(), WhisperFeatureExtractor().mel_filters, atol=1e-15)


# --- the store ------------------------------------------------------------------------------------------------------


def resampled_corpus(folder: Path, encoding: str = "flac") -> Path:
    """Six recordings of three speakers, 0.3 to 0.8 s."""
    rows = []
    for number in range(6):
        path = folder / f"clip{number}.wav"
        noise = np.random.default_rng(number).normal(0, 0.1, 8000 * (3 + number) // 10)
        soundfile.write(path, noise, 8_000)
        gender = ("female", "male", None)[number % 3]
        rows.append({"recording_id": f"r{number}", "speaker_id": f"s{number % 3}", "gender": gender, "location": str(path)})
    resample_corpus(
        as_recordings(pd.DataFrame(rows), "test"), folder / "audio", RESAMPLE.model_copy(update={"encoding": encoding})
    )
    return folder / "audio"


@pytest.fixture
def audio(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK_FRAMES", 25)
    monkeypatch.setattr(store, "SHARD_FRAMES", 100)  # so that recordings, of 30 to 80 frames, lie across shards
    return resampled_corpus(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected_features(audio: Path) -> list[np.ndarray]:
    return [log_mel(decode(clip, "")[0]).astype(np.float16) for clip in read_audio(audio)[1]]


@pytest.mark.parametrize("loaded", [False, True])
def test_the_store_gives_back_features_speakers_and_genders(audio, tmp_path, loaded):
    report = extract_corpus(audio, tmp_path / "store")
    expected = expected_features(audio)
    features = FeatureStore(tmp_path / "store")
    if loaded:
        features.load()
    assert len(features) == 6
    assert features.speaker_ids.tolist() == ["s0", "s1", "s2"] * 2
    assert features.genders.tolist() == ["female", "male", "unknown"] * 2
    assert features.n_frames.tolist() == [30, 40, 50, 60, 70, 80]
    for index, one in enumerate(expected):
        np.testing.assert_array_equal(features.frames(index), one)
        np.testing.assert_array_equal(features.frames(index, 5, 12), one[5:12])
        np.testing.assert_array_equal(features.frames(index, 20, 1000), one[20:])  # never into the next recording
    assert features.frames(0).dtype == np.float16
    assert report == {"recordings": 6, "speakers": 3, "hours": round(3.3 / 3600, 3), "frames": 330}
    json.dumps(report)


def test_the_store_gives_batches_in_whispers_form(audio, tmp_path):
    extract_corpus(audio, tmp_path / "store")
    input_features, attention_mask = FeatureStore(tmp_path / "store").batch([4, 1])
    assert input_features.shape == (2, 80, 70)
    assert attention_mask.sum(axis=1).tolist() == [70, 40]
    np.testing.assert_array_equal(input_features[1, :, :40].T, expected_features(audio)[1])


def test_plain_zarr_reads_the_store(audio, tmp_path):
    extract_corpus(audio, tmp_path / "store")
    group: Any = zarr.open_group(tmp_path / "store/features.zarr", mode="r")
    assert group.attrs.asdict() == {"sample_rate_hz": 16_000, "hop_length": 160, "n_fft": 400}
    assert group["offsets"][:].tolist() == [0, 30, 70, 120, 180, 250, 330]
    assert (group["features"].shape, group["features"].dtype, group["features"].shards) == ((330, 80), np.float16, (100, 80))
    np.testing.assert_array_equal(group["features"][:], np.concatenate(expected_features(audio)))
    assert group["speaker_id"][:].tolist() == ["s0", "s1", "s2"] * 2
    assert group["gender"][:].tolist() == ["female", "male", "unknown"] * 2
    np.testing.assert_array_equal(group["attention_mask"][:], np.ones(330, np.uint8))


def documented(which: int) -> str:
    """A block of Python of docs/reading.md."""
    text = (Path(__file__).parents[2] / "docs/reading.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)[which]


def run_alone(code: str, folder: Path) -> str:
    """What a program prints that must neither warn nor import this package."""
    code += "\nimport sys\nassert not [name for name in sys.modules if name.startswith('speakerprint')]"
    command = [sys.executable, "-W", "error", "-c", code]
    offline = os.environ | {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=offline)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_the_zarr_group_alone_is_enough_to_train_from(audio, tmp_path):
    extract_corpus(audio, tmp_path / "data/features/train/demo_train")
    (tmp_path / "data/features/train/demo_train/recordings.parquet").unlink()
    checks = """
after = torch.nn.functional.cross_entropy(model(mean), torch.from_numpy(labels[rows]))
print(after.item() < loss.item(), mask.sum(dim=1).tolist(), tuple(features.shape), labels[rows].tolist(), group["gender"][2])
"""
    assert run_alone(documented(1) + checks, tmp_path) == "True [30, 60, 40, 70] (4, 70, 80) [0, 0, 1, 1] unknown\n"


@pytest.mark.slow
def test_the_audio_opens_as_documented(audio, tmp_path):
    (tmp_path / "data/audio").mkdir(parents=True)
    audio.rename(tmp_path / "data/audio/demo_train")
    checks = "print(len(samples), sample_rate_hz, samples.dtype, audio['path'], recordings[0]['n_samples'])"
    assert run_alone(documented(0) + checks, tmp_path) == "4800 16000 float32 r0.flac 4800\n"


def test_labels_and_mask_cost_under_a_hundredth_of_the_store(tmp_path):
    n, speakers = 1000, 50
    ids = RNG.permutation([f"{speaker:0128x}" for speaker in range(speakers)] * (n // speakers))
    offsets = np.arange(n + 1) * 300
    store.create_store(tmp_path, offsets, ids.tolist(), [None] * n, {})
    size = {part.name: sum(map(len, files(part).values())) for part in (tmp_path / "features.zarr").iterdir() if part.is_dir()}
    assert size["attention_mask"] < 1000  # its fill value
    features_bytes = offsets[-1] * 80 * 2 / 2  # twice as small as float16 is what zstd makes of speech at best
    assert size["attention_mask"] + size["speaker_id"] + size["gender"] < 0.01 * features_bytes


def test_the_store_is_open_for_reading_only(audio, tmp_path):
    extract_corpus(audio, tmp_path / "store")
    before = files(tmp_path / "store")
    features = FeatureStore(tmp_path / "store")
    with pytest.raises(ValueError, match="read-only"):
        features._features[0] = 0
    features.batch([0, 5])
    store.seal(tmp_path / "store")  # once more
    assert files(tmp_path / "store") == before


@pytest.mark.parametrize("seconds", [(0.99,), (1.0,), (1.01,), (0.4, 1.6), (0.4, 3.1), (0.99, 0.01, 0.01, 1.99), (1.0, 1.0)])
def test_shards_are_whole_wherever_recordings_end(seconds, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK_FRAMES", 25)
    monkeypatch.setattr(store, "SHARD_FRAMES", 100)
    rows = [{"recording_id": f"r{n}", "speaker_id": "s", "location": f"{tmp_path}/{n}.wav"} for n in range(len(seconds))]
    for row, duration_s in zip(rows, seconds, strict=True):
        soundfile.write(row["location"], RNG.normal(0, 0.1, round(16_000 * duration_s)), 16_000)
    settings = Resample(engine="soxr", encoding="flac", min_duration_s=0.005, max_bad_fraction=0.0)
    resample_corpus(as_recordings(pd.DataFrame(rows), "test"), tmp_path / "audio", settings)
    extract_corpus(tmp_path / "audio", tmp_path / "store")
    n_frames = round(100 * sum(seconds))
    expected = np.concatenate(expected_features(tmp_path / "audio"))
    assert len(expected) == n_frames
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "store/features.zarr/features", mode="r")[:], expected)
    assert len(list((tmp_path / "store/features.zarr/features/c").glob("*/0"))) == -(-n_frames // 100)


@pytest.mark.parametrize(
    ("start", "stop", "audio", "offsets"),
    [
        (0, 100, [("a", 0, 2), ("b", 0, 1)], [0, 30, 70, 120]),
        (100, 200, [("b", 0, 3)], [70, 120, 180, 250]),
        (200, 300, [("b", 2, 3), ("c", 0, 1)], [180, 250, 330]),
        (300, 330, [("c", 0, 1)], [250, 330]),
        (120, 180, [("b", 1, 2)], [120, 180]),
    ],
)
def test_a_shard_reads_those_recordings_that_have_frames_in_it(start, stop, audio, offsets):
    starts, of_all = [0, 2, 5, 6], np.array([0, 30, 70, 120, 180, 250, 330])  # six recordings: two of a, three of b, one of c
    shard = _FeatureShard.of(["a", "b", "c"], starts, of_all, Path("store"), 7, start, stop)
    assert (shard.audio, shard.offsets) == (audio, offsets)


@pytest.mark.slow
def test_audio_kept_as_wav_gives_the_same_store_byte_for_byte(audio, tmp_path):
    for encoding in ("flac", "wav"):
        extract_corpus(resampled_corpus(tmp_path, encoding), tmp_path / encoding)
        (clip, *_) = read_audio(audio)[1]
        assert soundfile.info(io.BytesIO(clip)).format == encoding.upper()
    assert files(tmp_path / "flac") == files(tmp_path / "wav")


def test_what_a_killed_run_left_in_the_store_is_not_in_it(audio, tmp_path):
    extract_corpus(audio, tmp_path / "store")
    root = tmp_path / "unfinished/store/features.zarr"
    for left in ("zarr.json.partial", "speaker_id/c/0.partial", "gender/c/7", "features/zarr.json.partial", "old/c/0"):
        (root / left).parent.mkdir(parents=True, exist_ok=True)
        (root / left).write_bytes(b"cut short")
    extract_corpus(audio, tmp_path / "again", tmp_path / "unfinished")
    assert files(tmp_path / "again") == files(tmp_path / "store")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["flac", "wav"])
@pytest.mark.parametrize(
    ("column", "damage", "message"),
    [
        ("n_samples", lambda n_samples: n_samples - 4799, "30 frames of 1"),
        ("audio", lambda clip: clip | {"bytes": clip["bytes"][:4]}, "neither libsndfile nor FFmpeg can read it"),
        ("audio", lambda clip: clip | {"bytes": b""}, "neither libsndfile nor FFmpeg can read it"),
        ("audio", lambda clip: clip | {"bytes": clip["bytes"][: len(clip["bytes"]) // 2]}, "truncated"),
        ("audio", lambda clip: clip | {"bytes": bytes(4) + clip["bytes"][4:]}, "neither libsndfile nor FFmpeg can read it"),
    ],
)
def test_resampled_audio_that_is_damaged_is_refused(tmp_path, encoding, column, damage, message):
    audio = resampled_corpus(tmp_path, encoding)
    table = pq.read_table(audio / "part-00000.parquet")
    damaged = pa.array([damage(value) for value in table[column].to_pylist()], table.schema.field(column).type)
    pq.write_table(table.set_column(table.column_names.index(column), column, damaged), audio / "part-00000.parquet")
    with pytest.raises(InputError, match=rf"part-00000\.parquet: {message}.*audio is damaged; delete"):
        extract_corpus(audio, tmp_path / "store")


def test_a_store_that_is_not_whole_is_refused_by_name(audio, tmp_path):
    with pytest.raises(InputError, match=r"nowhere/recordings\.parquet does not exist"):
        FeatureStore(tmp_path / "nowhere")
    extract_corpus(audio, tmp_path / "store")
    meta = tmp_path / "store/features.zarr/features/zarr.json"
    whole = meta.read_text()
    meta.write_text(whole.replace("330", "230"))
    store.seal(tmp_path / "store")
    expected = "store does not fit together: 6 recordings, offsets of 6, 6 speakers, 6 genders, 230 frames of 330"
    with pytest.raises(InputError, match=expected):
        FeatureStore(tmp_path / "store")
    meta.write_text(whole[:100])
    store.seal(tmp_path / "store")
    with pytest.raises(InputError, match=r"features\.zarr is not a whole feature store"):
        FeatureStore(tmp_path / "store")
    meta.write_text(whole)
    recordings = tmp_path / "store/recordings.parquet"
    pq.write_table(pq.read_table(recordings)[:5], recordings)
    store.seal(tmp_path / "store")
    with pytest.raises(InputError, match="store does not fit together: 5 recordings, offsets of 6, 6 speakers"):
        FeatureStore(tmp_path / "store")
    (tmp_path / "store/features.zarr/offsets/zarr.json").unlink()
    with pytest.raises(InputError, match=r"store is not a whole feature store \(.*offsets/zarr\.json is missing\)"):
        FeatureStore(tmp_path / "store")


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
def test_a_shard_that_is_not_as_it_was_written_is_refused_when_it_is_read(audio, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(store, "SHARD_FRAMES", 100)
    monkeypatch.setattr(store, "CHUNK_FRAMES", 50)
    extract_corpus(audio, tmp_path / "store")
    shard = store.shard_path(tmp_path / "store", 1) / "0"
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    else:
        content[40] ^= 1
        shard.write_bytes(content if damage == "flipped" else content[:-9])
    opened = FeatureStore(tmp_path / "store")
    assert opened.frames(0, stop=20).shape == (20, 80)  # of the first shard
    assert opened.frames(2, stop=30).shape == (30, 80)  # up to its last frame
    for read in (opened.load, lambda: opened.frames(2, stop=31), lambda: [opened.frames(i) for i in range(len(opened))]):
        with pytest.raises(InputError, match=r"features/c/1/0 is missing, or was changed or damaged .* `dvc repro`"):
            read()


@pytest.mark.parametrize("name", ["recordings.parquet", "features.zarr/zarr.json", "features.zarr/offsets/c/0", "digests.json"])
def test_a_store_with_a_changed_file_is_refused(audio, tmp_path, name):
    extract_corpus(audio, tmp_path / "store")
    path = tmp_path / "store" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"store.*`dvc repro`"):
        FeatureStore(tmp_path / "store")
