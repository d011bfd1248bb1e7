"""A file read in blocks is the file read whole."""

import numpy as np
import pytest

from speakerprint.audio.decode import decode
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.stream import AudioStream
from tests.audio.test_decode import encoded, tones


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "M4A"])
def test_a_recording_in_blocks_is_what_decode_gives_as_often_as_it_is_read(container, tmp_path):
    data = encoded(np.stack([tones([300], 44_100), tones([500], 44_100)], axis=1), 44_100, container)
    (tmp_path / "it").write_bytes(data)
    recording = AudioStream(tmp_path / "it")
    expected, rate_hz = decode(data, "it")
    assert (recording.sample_rate_hz, recording.channels) == (rate_hz, 2)
    assert recording.duration_s == pytest.approx(len(expected) / rate_hz, abs=0.1)
    for _ in range(2):
        samples = np.concatenate(list(recording))
        assert samples.shape[1] == 2
        np.testing.assert_allclose(samples.mean(axis=1), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("container", "reason"),
    [("WAV", "truncated"), ("OGG", "truncated"), ("M4A", "neither libsndfile nor FFmpeg can read it|no audio in it")],
)
def test_a_truncated_recording_in_blocks_is_told(container, reason, tmp_path):
    path = tmp_path / "cut"
    path.write_bytes(encoded(tones([300], 16_000), 16_000, container)[:-700])
    with pytest.raises(UndecodableAudio, match=reason):
        list(AudioStream(path))
