"""Conditions under which `peers` compares systems: what happens to a recording before it is embedded.

A condition is a pure function of a waveform, (samples,) float32 mono at 16 kHz, and of the recording's id: whatever is drawn at
random is drawn from a generator seeded with the id, so every system gets the same samples, on every machine and in any order.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt

from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.resample import resample
from speakerprint.errors import InputError

# The one place that says which classes of ESC-10's environmental sounds the report uses. Training may use the other ones
# (chainsaw, dog, fire, rooster, sea, sneeze), never these, or a figure under noise would be of noise that the model knows.
REPORT_NOISES = ("baby", "clock", "helicopter", "rain")

CROPS_S = (1, 2, 3)
SNRS_DB = (20, 10, 5, 0)
TELEPHONE_HZ = 8_000
TELEPHONE_BAND_HZ = (300, 3_400)
TELEPHONE_ORDER = 4  # of the Butterworth filter, which runs forwards and backwards: twice 24 dB an octave below the band
OPUS_BIT_RATE = 6_000  # bits per second: the lowest that libopus is made for

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Condition:
    """What is done to a recording: ``apply(samples, recording_id)`` returns its new samples, ``definition`` says it in words."""

    name: str
    definition: str
    apply: Callable[[Waveform, str], Waveform]

    def digest(self) -> str:
        """SHA-256 of the definition and of what the condition makes of a fixed clip, so that a change to either shows."""
        clip = 0.1 * np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE_HZ, dtype=np.float32)
        return hashlib.sha256(self.definition.encode() + self.apply(clip, "a fixed clip").tobytes()).hexdigest()


def all_conditions(noises: Sequence[Waveform]) -> list[Condition]:
    """Every condition, in the order of a table's rows; those with noise only if there are ``noises`` (of `read_noises`)."""
    crops = [
        Condition(f"{seconds}s", f"the middle {seconds} s; whole if shorter", _without_id(partial(crop, seconds=seconds)))
        for seconds in CROPS_S
    ]
    sounds = hashlib.sha256(b"".join(noise.tobytes() for noise in noises)).hexdigest()
    noisy = [
        Condition(
            f"noise-{snr_db}dB",
            f"recorded noise ({', '.join(REPORT_NOISES)}; {len(noises)} sounds, SHA-256 {sounds}) at {snr_db} dB SNR",
            partial(_add_drawn_noise, noises=noises, snr_db=snr_db),
        )
        for snr_db in SNRS_DB
        if noises
    ]
    low, high = TELEPHONE_BAND_HZ
    telephone_band = f"sampled at {TELEPHONE_HZ} Hz, band {low}-{high} Hz (Butterworth of order {TELEPHONE_ORDER}, both ways)"
    return [
        Condition("full", "the whole recording", _without_id(lambda samples: samples)),
        *crops,
        *noisy,
        Condition("telephone", telephone_band, _without_id(telephone)),
        Condition("opus-6k", f"encoded as Opus at {OPUS_BIT_RATE} bit/s and decoded", _without_id(opus)),
    ]


def _without_id(function: Callable[[Waveform], Waveform]) -> Callable[[Waveform, str], Waveform]:
    return lambda samples, recording_id: function(samples)


# --- the functions ----------------------------------------------------------------------------------------------------


def crop(samples: Waveform, seconds: float) -> Waveform:
    """The middle ``seconds`` of (samples,), or all of them if there are no more."""
    n = round(seconds * SAMPLE_RATE_HZ)
    start = max(0, len(samples) - n) // 2
    return samples[start : start + n]


def add_noise(samples: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Speech and noise, both (samples,), mixed so that the speech's RMS over the clip is ``snr_db`` above the noise's.

    Raises InputError for noise that is digital silence.
    """
    noise_rms = _rms(noise)
    if noise_rms == 0:
        raise InputError("the noise is digital silence, which has no level; remove that sound from the noise folder")
    gain = _rms(samples) / noise_rms * 10 ** (-snr_db / 20)
    return _within_full_scale(samples + np.float32(gain) * noise)


def draw_noise(noises: Sequence[Waveform], n_samples: int, recording_id: str) -> Waveform:
    """A stretch (n_samples,) of one of the noises, from a random start, looped where too short; the same for the same id."""
    seed = int.from_bytes(hashlib.sha256(recording_id.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    noise = noises[int(rng.integers(len(noises)))]
    return np.resize(np.roll(noise, -rng.integers(len(noise))), n_samples)


def _add_drawn_noise(samples: Waveform, recording_id: str, noises: Sequence[Waveform], snr_db: float) -> Waveform:
    return add_noise(samples, draw_noise(noises, len(samples), recording_id), snr_db)


def telephone(samples: Waveform) -> Waveform:
    """What a telephone line lets through of (samples,): sampled at 8 kHz and band-limited to 300–3400 Hz, in zero phase."""
    line = resample(samples, SAMPLE_RATE_HZ, TELEPHONE_HZ)
    band = butter(TELEPHONE_ORDER, TELEPHONE_BAND_HZ, "bandpass", fs=TELEPHONE_HZ, output="sos")
    heard = resample(sosfiltfilt(band, line).astype(np.float32), TELEPHONE_HZ, SAMPLE_RATE_HZ)
    return _within_full_scale(_of_length(heard, len(samples)))


def opus(samples: Waveform, bit_rate: int = OPUS_BIT_RATE) -> Waveform:
    """(samples,) encoded as Opus, set to speech, at ``bit_rate`` bits per second, and decoded; 6 ms later by its look-ahead."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="ogg") as file:
        track = file.add_stream("libopus", rate=SAMPLE_RATE_HZ, layout="mono", bit_rate=bit_rate, options={"application": "voip"})
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    decoded, sample_rate_hz = decode(stream.getvalue(), "the recording as Opus")
    return _within_full_scale(_of_length(resample(decoded, sample_rate_hz, SAMPLE_RATE_HZ), len(samples)))


def _rms(samples: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _within_full_scale(samples: Waveform) -> Waveform:
    """Turned down, if need be, until no sample is beyond [-1, 1]; no recording is, and some systems rely on it."""
    return samples / max(np.float32(1), np.abs(samples).max())


def _of_length(samples: Waveform, n_samples: int) -> Waveform:
    return np.pad(samples[:n_samples], (0, max(0, n_samples - len(samples))))


# --- noise ------------------------------------------------------------------------------------------------------------


def read_noises(folder: str | Path) -> list[Waveform]:
    """The sounds ``<folder>/<class>/*.ogg`` of REPORT_NOISES, each (samples,) float32 at 16 kHz without silence at its ends.

    Raises InputError for a class of which there is none.
    """
    noises = []
    for name in REPORT_NOISES:
        paths = sorted((Path(folder) / name).glob("*.ogg"))
        if not paths:
            raise InputError(
                f"{folder}/{name} holds no *.ogg; --noise takes ESC-10's folder, with {', '.join(REPORT_NOISES)} in it"
            )
        for path in paths:
            samples, sample_rate_hz = decode(path.read_bytes(), str(path))
            noises.append(np.trim_zeros(resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)))
    return noises
