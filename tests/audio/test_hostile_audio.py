"""What a stranger's file must not do: open others, open sockets, or fill the memory."""

import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerprint.audio import decode as module
from speakerprint.audio import files
from speakerprint.audio.decode import decode
from speakerprint.audio.files import UndecodableAudio, read_file

ROOT = Path(__file__).resolve().parents[2]
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://%b\n#EXT-X-ENDLIST\n"


def wav(n_samples: int, sample_rate_hz: int = 16_000, channels: int = 1) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros((n_samples, channels), np.float32), sample_rate_hz, format="WAV", subtype="PCM_16")
    return stream.getvalue()


@pytest.mark.parametrize("form", ["sdp", "ffconcat", "hls"])
def test_text_that_names_other_files_or_sockets_is_no_audio(tmp_path, form):
    voice = tmp_path / "voice.wav"
    voice.write_bytes(wav(16_000))
    text = {"sdp": SDP, "ffconcat": f"ffconcat version 1.0\nfile '{voice}'\n".encode(), "hls": HLS % os.fsencode(voice)}[form]
    with pytest.raises(UndecodableAudio, match="neither libsndfile nor FFmpeg can read it"):
        decode(text, "hostile.wav")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (wav(2000, 999), "has a sample rate of 999 Hz, expected 1,000 to 384,000"),
        (wav(2000, 655_350), "has a sample rate of 655,350 Hz"),
        (wav(20, channels=65), "has 65 channels, expected at most 64"),
    ],
)
def test_what_no_microphone_records_is_refused(data, reason):
    with pytest.raises(UndecodableAudio, match=reason):
        decode(data, "clip")


@pytest.mark.parametrize("container", ["FLAC", "WAV", "OGG", "MP3"])
def test_more_samples_than_allowed_are_refused_with_the_remedy(monkeypatch, container):
    monkeypatch.setattr(module, "MAX_SAMPLES", 16_000)
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(40_000, np.float32), 16_000, format=container)
    with pytest.raises(UndecodableAudio, match="lasts over 0 minutes at 16,000 Hz; cut it into parts"):
        decode(stream.getvalue(), "clip")


@pytest.mark.slow
def test_hours_of_silence_in_a_small_file_take_no_memory():
    """In a process of its own, whose peak memory it is."""
    code = """
import io, resource, soundfile, numpy
from speakerprint.audio.decode import decode
from speakerprint.audio.files import UndecodableAudio
stream = io.BytesIO()
with soundfile.SoundFile(stream, "w", 16_000, 1, format="FLAC", subtype="PCM_16") as file:
    for minute in range(6 * 60):
        file.write(numpy.zeros(60 * 16_000, numpy.int16))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(stream.getvalue(), "hours.flac")
except UndecodableAudio as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    message, grown_mib = ran.stdout.splitlines()
    assert message.startswith("hours.flac: lasts over 280 minutes")
    assert int(grown_mib) < 100


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", Path("/dev/zero")):
        with pytest.raises(UndecodableAudio, match="is no plain file but a pipe, a device or a folder"):
            read_file(path)
    with pytest.raises((UndecodableAudio, IsADirectoryError)):
        read_file(tmp_path)


def test_a_sparse_file_of_terabytes_is_refused_unread(tmp_path):
    with (tmp_path / "huge.wav").open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UndecodableAudio, match=r"is 1,073,741,825 bytes, expected at most 1,073,741,824; cut it into parts"):
        read_file(tmp_path / "huge.wav")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
