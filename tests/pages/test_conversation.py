import base64
import io

import numpy as np
import pytest
import soundfile

from speakerprint import Diarization, Turn
from speakerprint.pages import toolkit
from speakerprint.pages.conversation import add_peaks, conversation_data

RATE = 8_000


def heard(data) -> float:
    """Seconds of the audio in the page."""
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data["audio"])))
    return len(samples) / rate


@pytest.fixture
def recording(tmp_path):
    """Ten seconds, loud in the third quarter, at another rate and in stereo."""
    samples = 0.01 * np.random.default_rng(1).normal(size=(10 * RATE, 2)).astype(np.float32)
    samples[5 * RATE : round(7.5 * RATE)] *= 40
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    return tmp_path / "a.wav"


FOUND = Diarization([Turn(5.0, 7.5, "speaker 1", 1.0)], {"speaker 1": np.ones(1, np.float32)}, 10.0)


def test_the_waveform_is_loud_where_the_recording_is_and_all_of_it_can_be_heard(recording):
    data = conversation_data(FOUND, recording)
    peaks = np.array(data["peaks"])
    assert len(peaks) == 400 and peaks[205:295].min() > 5 * max(peaks[:195].max(), peaks[305:].max())
    assert heard(data) == pytest.approx(10, abs=0.1) and data["heard_s"] is None


def test_of_a_long_recording_the_beginning_can_be_heard_and_the_page_says_how_much(recording, monkeypatch):
    monkeypatch.setattr(toolkit, "MAX_AUDIO_BYTES", 4_000)
    data = conversation_data(FOUND, recording)
    assert 0 < data["heard_s"] < 10 and heard(data) == pytest.approx(data["heard_s"], abs=0.1)


def test_a_recording_in_which_nobody_speaks_has_no_turns(recording):
    data = conversation_data(Diarization([], {}, 10.0), recording)
    assert data["turns"] == data["speakers"] == []


def test_peaks_are_the_loudest_of_equal_parts_in_blocks_and_at_once():
    samples = np.array([0.1, -0.5, 0.2, 0.3, -0.9, 0.0], np.float32)
    for size in (1, 2, 4, 6):
        loudest = np.zeros(3, np.float32)
        for start in range(0, 6, size):
            add_peaks(loudest, samples[start : start + size], start, 6)
        assert loudest.tolist() == pytest.approx([0.5, 0.3, 0.9])
