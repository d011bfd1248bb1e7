"""A file of hours: heard in stretches, in the memory of minutes, as the same voice."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerprint import SpeakerEmbedder
from speakerprint.audio import decode, stretches
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.voice_activity import NoSpeech
from speakerprint.inference import hearing

ROOT = Path(__file__).resolve().parents[2]
PAUSE = np.zeros(16_000, np.float32)

pytestmark = pytest.mark.slow


@pytest.fixture
def in_stretches(monkeypatch):
    """What is long here: over ten seconds, in stretches of five."""
    monkeypatch.setattr(hearing, "LONG_S", 10.0)
    monkeypatch.setattr(hearing, "ASKED_BYTES", 1000)
    monkeypatch.setattr(stretches, "STRETCH_S", 5.0)


def written(path, *parts, rate=16_000):
    soundfile.write(path, np.concatenate(parts), rate)
    return path


def test_a_long_file_has_the_voice_that_it_has_whole(embedder, clips, tmp_path, in_stretches):
    ann = written(tmp_path / "ann.flac", *[clips["ann-1"], PAUSE, clips["ann-2"], PAUSE] * 2)
    assert hearing.long_recording(ann) is not None
    (in_parts,), (whole,) = embedder.embed_files([ann]), embedder.embed_files([ann.read_bytes()])
    assert in_parts @ whole > 0.97 and np.linalg.norm(in_parts) == pytest.approx(1)
    same = embedder.verify(ann, clips["ann-1"], sample_rate_hz=16_000)
    assert same.same_speaker is True and same.doubts == ()


def test_a_long_file_is_doubted_as_others_are(embedder, clips, tmp_path, in_stretches):
    ann, bob = clips["ann-1"], clips["bob"]
    both = written(tmp_path / "both.wav", *[ann, PAUSE, bob, PAUSE] * 4)
    assert [doubt.partition(":")[0] for doubt in embedder.verify(both, both).doubts] == [str(both)] * 2
    loud = written(tmp_path / "loud.wav", *[np.clip(30 * ann, -1, 1), PAUSE] * 4)
    told = []
    embedder.embed_files([both, loud], lambda path, doubts: told.append((path, doubts)))
    assert [path for path, _ in told] == [both, loud]
    assert told[0][1][0].startswith("two voices") and told[1][1][0].startswith("it is clipped")


def test_a_long_file_without_speech_is_refused(tmp_path, in_stretches):
    strict = SpeakerEmbedder.load(require_speech=True)
    noise = written(tmp_path / "noise.wav", np.random.default_rng(1).normal(scale=0.01, size=240_000))
    with pytest.raises(NoSpeech, match=r"noise.wav: holds 0.00 s of speech, expected at least 0.5 s"):
        strict.embed_files([noise])
    for embedder in (strict, SpeakerEmbedder.load()):
        with pytest.raises(NoSpeech, match=r"nothing.wav: is digital silence"):
            embedder.embed_files([written(tmp_path / "nothing.wav", np.zeros(240_000))])


def test_silence_in_a_long_file_is_left_out_where_speech_is_required(clips, tmp_path, in_stretches):
    ann = clips["ann-1"]
    alone = written(tmp_path / "alone.wav", ann, ann, ann)
    hiss = np.random.default_rng(1).normal(scale=0.001, size=480_000)
    among = written(tmp_path / "among.wav", hiss, ann, hiss, ann, ann, hiss)
    for embedder in (SpeakerEmbedder.load(require_speech=True), SpeakerEmbedder.load(trim_silence=True)):
        (one,), (other,) = embedder.embed_files([alone]), embedder.embed_files([among])
        assert one @ other > 0.8


def test_more_than_a_day_and_a_damaged_file_are_refused(embedder, clips, tmp_path, in_stretches, monkeypatch):
    long = written(tmp_path / "long.wav", *[clips["ann-1"]] * 6)
    monkeypatch.setattr(hearing, "LONGEST_S", 10.0)
    with pytest.raises(UndecodableAudio, match=r"long.wav: lasts over .* hours; cut it into parts"):
        embedder.embed_files([long])
    monkeypatch.setattr(hearing, "LONGEST_S", 86400.0)
    long.write_bytes(long.read_bytes()[:-100_000])
    with pytest.raises(UndecodableAudio, match="truncated"):
        embedder.embed_files([long])


def test_a_day_of_many_channels_at_a_high_rate_is_never_decoded(embedder, tmp_path, in_stretches, monkeypatch):
    bomb = written(tmp_path / "bomb.flac", np.zeros((500_000, 8)))
    assert hearing.long_recording(bomb) is not None
    monkeypatch.setattr(hearing, "MOST_SAMPLES", 3_000_000)
    monkeypatch.setattr(decode, "MAX_SAMPLES", 300_000)
    with pytest.raises(UndecodableAudio, match="cut it into parts"):
        embedder.embed_files([bomb])


MEASURED = """
import resource, sys
import numpy as np, soundfile
from speakerprint import SpeakerEmbedder, diarize
from speakerprint.audio import stretches

class Hasty:  # hears speech everywhere, in no time
    n = 0
    def hear(self, samples):
        before, self.n = self.n // 512, self.n + len(samples)
        return np.full(self.n // 512 - before, 0.9, np.float32)
    def end(self):
        return np.full(int(self.n % 512 > 0), 0.9, np.float32)

stretches.SpeechDetector = Hasty
embedder = SpeakerEmbedder.load()
embed_frames = embedder.embed_frames
embedder.embed_frames = lambda clips: embed_frames(clips[:1]).repeat(len(clips), axis=0)
_, command, path = sys.argv
if command == "embed":
    embedder.embed_files(path)
elif command == "verify":
    embedder.verify(path, soundfile.read(path, 80_000)[0], sample_rate_hz=16_000)
else:
    diarize(path, embedder=embedder)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mib(command: str, path: Path) -> int:
    """Of a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", MEASURED, command, str(path)], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


@pytest.mark.parametrize("command", ["embed", "verify", "diarize"])
def test_twenty_minutes_take_little_more_memory_than_six(command, clips, tmp_path):
    """Held whole, they would take 100 MiB more, and more while they are decoded."""
    minute = np.concatenate([clips["ann-1"], PAUSE, clips["bob"], PAUSE] * 9)[: 60 * 16_000]
    peaks = []
    for minutes in (6, 20):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 16_000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        peaks.append(peak_mib(command, path))
    assert peaks[1] - peaks[0] < 30, peaks
