import io
import json
import tarfile

import av
import joblib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from speakerprint.audio.decode import decode
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.resample import encode, resample
from speakerprint.corpora import resampling
from speakerprint.corpora.recordings import CHUNK_ROWS, SCHEMA, RecordingsFile, as_recordings, write_recordings
from speakerprint.corpora.resampling import read_audio, read_encoded, resample_corpus
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.errors import InputError
from speakerprint.params.resample import Resample

SETTINGS = Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.6)
RNG = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def in_this_process():
    with joblib.parallel_config("threading"):  # processes take seconds to start, and would not see what a test changes
        yield


def tones(frequencies_hz, sample_rate_hz, seconds=1.3):
    t = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    return sum(0.1 * np.sin(2 * np.pi * f * t + f) for f in frequencies_hz).astype(np.float32)


def encoded(samples, sample_rate_hz, container, **options):
    stream = io.BytesIO()
    if container != "M4A":
        soundfile.write(stream, samples, sample_rate_hz, format=container, **options)
        return stream.getvalue()
    channels = np.atleast_2d(samples.T)
    with av.open(stream, "w", format="mp4") as file:
        layout = "stereo" if len(channels) == 2 else "mono"
        track = file.add_stream("aac", rate=sample_rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate = sample_rate_hz
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    return stream.getvalue()


# --- decode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "M4A"])
@pytest.mark.parametrize("sample_rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_channels_are_averaged_whatever_the_format(container, sample_rate_hz):
    left, right = tones([440], sample_rate_hz), tones([1000], sample_rate_hz)
    samples, found_hz = decode(encoded(np.stack([left, right], axis=1), sample_rate_hz, container), "clip")
    assert (samples.dtype, samples.ndim, found_hz) == (np.float32, 1, sample_rate_hz)
    assert len(samples) / found_hz == pytest.approx(1.3, abs=0.25)  # AAC at 8 kHz is padded by two frames of 0.128 s
    middle = samples[round(0.2 * found_hz) : round(1.2 * found_hz)]
    amplitude = np.abs(np.fft.rfft(middle)) * 2 / len(middle)  # one second: bin = Hz
    assert amplitude[[440, 1000]] == pytest.approx(0.05, abs=0.005)
    assert np.delete(amplitude, [440, 1000]).max() < 0.01


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "OPUS", "M4A", "WEBM"])
@pytest.mark.parametrize("kept", [0.4, 0.85])
def test_a_truncated_file_is_told(container, kept, tmp_path):
    noise = RNG.normal(0, 0.1, 3 * 48_000).astype(np.float32)
    if container == "OPUS":
        data = encoded(noise, 48_000, "OGG", subtype="OPUS")
    elif container in ("M4A", "WEBM"):
        path = tmp_path / "clip"
        options, codec = ({"movflags": "faststart"}, "aac") if container == "M4A" else ({}, "libopus")
        with av.open(path, "w", format={"M4A": "mp4", "WEBM": "webm"}[container], options=options) as file:
            track = file.add_stream(codec, rate=48_000, layout="mono")
            assert isinstance(track, av.AudioStream)
            frame = av.AudioFrame.from_ndarray(noise[None], format="fltp", layout="mono")
            frame.sample_rate = 48_000
            file.mux(track.encode(frame))
            file.mux(track.encode(None))
        data = path.read_bytes()
    else:
        data = encoded(noise, 48_000, container)
    assert len(decode(data, "clip")[0]) == pytest.approx(len(noise), abs=2048)
    with pytest.raises(UndecodableAudio, match=r"^clip: truncated"):
        decode(data[: int(kept * len(data))], "clip")


@pytest.mark.slow
def test_tags_and_junk_around_an_mp3_are_no_truncation():
    data = encoded(RNG.normal(0, 0.1, 48_000), 48_000, "MP3")
    whole = decode(data, "clip")[0]
    id3_of_1024_bytes = b"ID3\x04\x00\x00\x00\x00\x08\x00" + bytes(1024)
    for dressed in (id3_of_1024_bytes + data, data + b"TAG" + bytes(125), data + bytes(50_000), data + RNG.bytes(5000)):
        assert decode(dressed, "clip")[0][: len(whole)] == pytest.approx(whole, abs=1e-4)


def test_a_variable_bitrate_mp3_without_a_length_header_is_decoded_to_its_end():
    loudness = np.repeat([1e-4, 1.0, 1e-4, 1.0, 1.0], 48_000)
    data = encoded(RNG.normal(0, 0.1, len(loudness)) * loudness, 48_000, "MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    header = max(data.find(b"Xing"), data.find(b"Info"))
    assert header > 0
    headless = data[data.find(b"\xff\xfb", header) :]
    assert len(decode(headless, "clip")[0]) == pytest.approx(5 * 48_000, abs=3000)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_wav_written_to_a_pipe_is_no_truncation(size):
    data = bytearray(encoded(tones([440], 16_000), 16_000, "WAV"))
    data[4:8] = size.to_bytes(4, "little")
    assert len(decode(bytes(data), "clip")[0]) == round(1.3 * 16_000)


@pytest.mark.parametrize("data", [b"", b"not audio at all" * 100, bytes(1000)])
def test_what_is_no_audio_is_refused_by_name(data):
    with pytest.raises(UndecodableAudio, match=r"^a/b\.mp3: neither libsndfile nor FFmpeg can read it"):
        decode(data, "a/b.mp3")


def test_samples_that_are_not_finite_are_refused():
    samples = tones([440], 16_000)
    samples[100] = np.nan
    with pytest.raises(UndecodableAudio, match="not finite"):
        decode(encoded(samples, 16_000, "WAV", subtype="FLOAT"), "clip")


# --- resample -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["soxr", "resampy"])
@pytest.mark.parametrize("from_hz", [8_000, 22_050, 44_100, 48_000])
def test_tones_in_the_pass_band_come_out_as_if_sampled_at_16_khz(engine, from_hz):
    frequencies_hz = [100, 1000, 2500, 3300] + [5000, 6500] * (from_hz > 16_000)
    expected = tones(frequencies_hz, 16_000)
    found = resample(tones(frequencies_hz, from_hz), from_hz, 16_000, engine)
    assert found.dtype == np.float32
    assert len(found) == pytest.approx(len(expected), abs=1)
    middle = slice(2000, -2000)
    np.testing.assert_allclose(found[: len(expected)][middle], expected[: len(found)][middle], atol=2e-4)


@pytest.mark.parametrize("engine", ["soxr", "resampy"])
def test_tones_above_8_khz_are_gone(engine):
    assert np.abs(resample(tones([9000, 12_000], 48_000), 48_000, 16_000, engine)[2000:-2000]).max() < 1e-3


@pytest.mark.parametrize("encoding", ["flac", "wav"])
def test_a_16_bit_recording_at_16_khz_passes_unchanged(encoding):
    pcm = np.array([-32768, -1, 0, 1, 32767] * 400, np.int16)
    samples, sample_rate_hz = decode(encoded(pcm, 16_000, "WAV"), "clip")
    written = encode(resample(samples, sample_rate_hz, 16_000), encoding)
    info = soundfile.info(io.BytesIO(written))
    assert (info.format, info.subtype, info.samplerate, info.channels) == (encoding.upper(), "PCM_16", 16_000, 1)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(written), dtype="int16")[0], pcm)


@pytest.mark.parametrize("encoding", ["flac", "wav"])
def test_overshoot_is_clipped_and_does_not_wrap(encoding):
    overshooting = np.array([1.5, -1.5, 0.5] * 200, np.float32)
    pcm, _ = soundfile.read(io.BytesIO(encode(overshooting, encoding)), dtype="int16")
    assert pcm[:3].tolist() == [32767, -32768, 16384]


# --- a corpus -------------------------------------------------------------------------------------------------------


@pytest.fixture
def selection(tmp_path):
    """Seven good recordings of two speakers at 24 kHz, 0.5 to 1.1 s."""
    rows = []
    for number in range(7):
        path = tmp_path / f"clip{number}.wav"
        soundfile.write(path, tones([300 + 100 * number], 24_000, seconds=0.5 + number / 10), 24_000)
        rows.append({"recording_id": f"r{number}", "speaker_id": f"s{number % 2}", "gender": "female", "location": str(path)})
    return as_recordings(pd.DataFrame(rows), "test")


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_shards_keep_the_recordings_and_their_exact_duration(selection, tmp_path):
    report = resample_corpus(selection, tmp_path / "out", SETTINGS)
    recordings, clips = read_audio(tmp_path / "out")
    pd.testing.assert_frame_equal(recordings.drop(columns="duration_s"), selection.drop(columns="duration_s"))
    np.testing.assert_allclose(recordings["duration_s"], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
    for number, clip in enumerate(clips):
        samples, sample_rate_hz = soundfile.read(io.BytesIO(clip))
        assert (len(samples), sample_rate_hz) == (round((0.5 + number / 10) * 16_000), 16_000)
        assert np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples) == pytest.approx(300 + 100 * number, abs=2)
    assert report == {
        "recordings": 7,
        "speakers": 2,
        "hours": round(5.6 / 3600, 3),
        "too_few_left": {"recordings": 0, "speakers": 0},
        "bad": [],
    }
    json.dumps(report)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_selection_in_a_file_gives_the_same_as_one_in_memory(selection, tmp_path, monkeypatch, packed):
    monkeypatch.setattr(resampling, "SHARD_ROWS", 2)
    monkeypatch.setattr("speakerprint.corpora.recordings.CHUNK_ROWS", 4)
    for bad in (1, 3, 5, 4):  # all of one speaker's, and a shard's
        (tmp_path / f"clip{bad}.wav").write_bytes(b"")
    if packed:
        with tarfile.open(tmp_path / "clips.tar", "w") as tar:
            for path in sorted(tmp_path.glob("*.wav"), reverse=True):
                tar.add(path, path.name)
        inside = selection["location"].str.replace("/clip", "/clips.tar/clip")
        selection["location"] = selection["location"].where(selection.index % 3 == 0, inside)  # some are plain files
    write_recordings(selection, tmp_path / "selection.parquet")
    in_memory = resample_corpus(selection, tmp_path / "in_memory", SETTINGS)
    in_file = resample_corpus(RecordingsFile(tmp_path / "selection.parquet"), tmp_path / "in_file", SETTINGS)
    assert in_file == in_memory
    assert shards(tmp_path / "in_file") == shards(tmp_path / "in_memory")
    assert [in_file["recordings"], in_file["speakers"]] == [3, 1]
    assert [row["recording_id"] for row in in_file["bad"]] == ["r1", "r3", "r4", "r5"]


def test_a_chunk_of_a_table_is_whole_shards():
    assert CHUNK_ROWS % resampling.SHARD_ROWS == 0


def test_unpacked_clips_stay_with_their_recordings_when_the_selection_changes_before_a_killed_run_goes_on(selection, tmp_path):
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        for path in sorted(tmp_path.glob("*.wav")):
            tar.add(path, path.name)
    inside = selection["location"].str.replace("/clip", "/clips.tar/clip")
    plain = selection["recording_id"].isin(["r1", "r3"])
    packed = selection.assign(location=inside.where(~plain, selection["location"]))
    (tmp_path / "clip1.wav").unlink()
    strict = SETTINGS.model_copy(update={"max_bad_fraction": 0.0})
    with pytest.raises(InputError, match="1 of 6 recordings are bad"):  # all is unpacked by then
        resample_corpus(packed.iloc[[0, 1, 2, 4, 5, 6]], tmp_path / "out", strict)
    resample_corpus(packed.iloc[[0, 2, 3, 4, 5, 6]], tmp_path / "out", strict)
    table, clips = read_audio(tmp_path / "out")
    for name, clip in zip(table["recording_id"], clips, strict=True):
        samples, _ = soundfile.read(io.BytesIO(clip))
        pitch_hz = np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples)
        assert pitch_hz == pytest.approx(300 + 100 * int(name[1:]), abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["flac", "wav"])
def test_the_shards_open_with_datasets(selection, tmp_path, monkeypatch, encoding):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    resample_corpus(selection, tmp_path / "out", SETTINGS.model_copy(update={"encoding": encoding}))
    files = str(tmp_path / "out/part-*.parquet")
    dataset = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.features["audio"] == datasets.Audio(sampling_rate=16_000, decode=False)
    assert dataset.column_names == [*SCHEMA.names, "n_samples", "audio"]
    row = dataset[3]
    samples, _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
    assert (row["recording_id"], row["audio"]["path"]) == ("r3", f"r3.{encoding}")
    assert len(samples) == row["n_samples"] == 12_800


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_order_in_which_clips_arrive(selection, tmp_path, monkeypatch):
    monkeypatch.setattr(resampling, "SHARD_ROWS", 4)
    monkeypatch.setattr(resampling, "ROWS_PER_GROUP", 3)
    written = []
    for order in (1, -1):
        with tarfile.open(tmp_path / "clips.tar", "w") as tar:
            for path in sorted(tmp_path.glob("*.wav"))[::order]:
                tar.add(path, path.name)
        packed = selection.assign(location=selection["location"].str.replace("/clip", "/clips.tar/clip"))
        resample_corpus(packed, tmp_path / "out", SETTINGS)
        written.append(shards(tmp_path / "out"))
    assert written[0] == written[1]
    assert list(written[0]) == ["part-00000.parquet", "part-00001.parquet"]
    resample_corpus(selection, tmp_path / "one", SETTINGS)
    assert list(read_audio(tmp_path / "one")[1]) == list(read_audio(tmp_path / "out")[1])
    assert read_audio(tmp_path / "out")[0]["recording_id"].tolist() == [f"r{n}" for n in range(7)]
    assert pq.ParquetFile(tmp_path / "out/part-00000.parquet").num_row_groups == 2


@pytest.mark.slow
def test_shards_of_an_earlier_run_are_removed(selection, tmp_path, monkeypatch):
    resample_corpus(selection, tmp_path / "out", SETTINGS)
    expected = shards(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(resampling, "SHARD_ROWS", 2)
        resample_corpus(selection, tmp_path / "out", SETTINGS)
    resample_corpus(selection, tmp_path / "out", SETTINGS)
    assert shards(tmp_path / "out") == expected


def test_shards_that_a_stopped_run_left_are_made_again_in_another_encoding(selection, tmp_path):
    (tmp_path / "clip6.wav").unlink()
    with pytest.raises(InputError, match="1 of 7 recordings are bad"):
        resample_corpus(selection, tmp_path / "out", SETTINGS.model_copy(update={"max_bad_fraction": 0.0}))
    assert list((tmp_path / "out.unfinished/parts").iterdir())
    resample_corpus(selection, tmp_path / "out", SETTINGS.model_copy(update={"encoding": "wav"}))
    assert {soundfile.info(io.BytesIO(clip)).format for clip in read_audio(tmp_path / "out")[1]} == {"WAV"}


def test_bad_clips_are_skipped_and_listed_with_their_reason(selection, tmp_path):
    (tmp_path / "clip1.wav").write_bytes(b"nothing of the sort")
    (tmp_path / "clip3.wav").unlink()
    soundfile.write(tmp_path / "clip5.wav", tones([440], 24_000, seconds=0.09), 24_000)
    soundfile.write(tmp_path / "clip6.wav", np.full(24_000, 0.4 / 2**15), 24_000, subtype="FLOAT")
    report = resample_corpus(selection, tmp_path / "out", SETTINGS)
    assert (report["recordings"], report["hours"]) == (3, round(2.1 / 3600, 3))
    assert [row["recording_id"] for row in report["bad"]] == ["r1", "r3", "r5", "r6"]
    assert [row["location"] for row in report["bad"]] == [str(tmp_path / f"clip{n}.wav") for n in (1, 3, 5, 6)]
    assert [row["reason"].split()[0] for row in report["bad"]] == ["neither", "there", "lasts", "digital"]
    recordings, clips = read_audio(tmp_path / "out")
    assert recordings["recording_id"].tolist() == ["r0", "r2", "r4"]
    assert [soundfile.info(io.BytesIO(clip)).duration for clip in clips] == pytest.approx([0.5, 0.7, 0.9])


def test_a_shard_whose_recordings_are_all_bad_is_empty(selection, tmp_path, monkeypatch):
    monkeypatch.setattr(resampling, "SHARD_ROWS", 2)
    for number in (2, 3):
        (tmp_path / f"clip{number}.wav").unlink()
    resample_corpus(selection, tmp_path / "out", SETTINGS)
    recordings, clips = read_audio(tmp_path / "out")
    assert recordings["recording_id"].tolist() == ["r0", "r1", "r4", "r5", "r6"]
    assert len(list(clips)) == 5


def test_a_clip_shorter_than_the_corpus_says_is_truncated(selection, tmp_path):
    selection["duration_s"] = [0.5, 0.66, 0.85, 0.8, None, None, None]  # r1 is 9 % short, r2 18 %
    report = resample_corpus(selection, tmp_path / "out", SETTINGS)
    assert [(row["recording_id"], row["reason"]) for row in report["bad"]] == [
        ("r2", "truncated: 0.70 s of the 0.85 s in the metadata")
    ]


def test_too_many_bad_clips_stop_the_stage(selection, tmp_path):
    for number in (0, 1):
        (tmp_path / f"clip{number}.wav").unlink()
    exactly = Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=2 / 7)
    assert resample_corpus(selection, tmp_path / "out", exactly)["recordings"] == 5
    fewer = Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.28)
    with pytest.raises(
        InputError, match=r"(?s)2 of 7 recordings are bad.*raise resample\.max_bad_fraction.*clip0\.wav: there is no"
    ):
        resample_corpus(selection, tmp_path / "refused", fewer)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("shard_rows", [2, 4, 512])
def test_a_speaker_of_whom_too_few_good_clips_are_left_goes_too(selection, tmp_path, monkeypatch, shard_rows):
    """r0, r2, r4, r6 are of s0; r1, r3, r5 of s1."""
    monkeypatch.setattr(resampling, "SHARD_ROWS", shard_rows)
    (tmp_path / "clip3.wav").unlink()
    report = resample_corpus(selection, tmp_path / "out", SETTINGS, min_recordings_per_speaker=3)
    recordings, clips = read_audio(tmp_path / "out")
    assert recordings["recording_id"].tolist() == ["r0", "r2", "r4", "r6"]
    assert [soundfile.info(io.BytesIO(clip)).duration for clip in clips] == pytest.approx([0.5, 0.7, 0.9, 1.1])
    assert (report["recordings"], report["speakers"], report["hours"]) == (4, 1, round(3.2 / 3600, 3))
    assert report["too_few_left"] == {"recordings": 2, "speakers": 1}
    assert [(row["recording_id"], row["reason"]) for row in report["bad"]] == [
        ("r3", "there is no such file"),
        ("r1", "2 good recordings of its speaker are left, fewer than the filter's 3"),
        ("r5", "2 good recordings of its speaker are left, fewer than the filter's 3"),
    ]


def test_a_corpus_none_of_whose_speakers_has_enough_good_clips_left_is_refused(selection, tmp_path):
    (tmp_path / "clip3.wav").unlink()
    (tmp_path / "clip4.wav").unlink()
    with pytest.raises(InputError, match=r"no speaker has 4 good .*min_recordings_per_speaker wants \(at most 3\)"):
        resample_corpus(selection, tmp_path / "out", SETTINGS, min_recordings_per_speaker=4)


def test_a_corpus_without_one_good_clip_is_refused(selection, tmp_path):
    anything = Resample(engine="soxr", encoding="flac", min_duration_s=10.0, max_bad_fraction=1.0)
    with pytest.raises(InputError, match="7 of 7 recordings are bad"):
        resample_corpus(selection, tmp_path / "out", anything)
    with pytest.raises(InputError, match="there are no recordings"):
        resample_corpus(selection.iloc[:0], tmp_path / "out", anything)


def test_a_folder_without_whole_shards_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="nowhere holds no part"):
        read_audio(tmp_path / "nowhere")
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="is damaged"):
        read_audio(tmp_path)


def test_clips_that_were_unpacked_are_not_read_again(selection, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        for path in sorted(tmp_path.glob("*.wav"))[1:]:  # one is absent
            tar.add(path, path.name)
    packed = selection.assign(location=selection["location"].str.replace("/clip", "/clips.tar/clip"))
    report = resample_corpus(packed, tmp_path / "expected", SETTINGS)
    assert report["bad"][0]["reason"] == "there is no such file"

    asked = []

    def first_three(locations):
        asked.append(len(locations))
        yield from list(read_clips(locations))[: 3 if len(asked) == 1 else None]
        if len(asked) == 1:
            raise InterruptedError

    monkeypatch.setattr("speakerprint.corpora.spool.read_clips", first_three)
    with pytest.raises(InterruptedError):
        resample_corpus(packed, tmp_path / "out", SETTINGS)
    for path in (
        tmp_path / "out.unfinished/spool/clips",
        tmp_path / "out.unfinished/spool/index",
    ):  # killed while it wrote the fourth
        path.write_bytes(path.read_bytes() + b"fourth")
    assert resample_corpus(packed, tmp_path / "out", SETTINGS) == report
    assert shards(tmp_path / "out") == shards(tmp_path / "expected")
    assert asked == [7, 4]


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 3), (2, 5), (3, 6), (5, 7), (4, 4)])
def test_any_rows_of_a_shard_are_read(selection, tmp_path, monkeypatch, start, stop):
    monkeypatch.setattr(resampling, "ROWS_PER_GROUP", 3)
    resample_corpus(selection, tmp_path / "out", SETTINGS)
    _, clips = read_audio(tmp_path / "out")
    assert list(read_encoded(tmp_path / "out/part-00000.parquet", start, stop)) == list(clips)[start:stop]
