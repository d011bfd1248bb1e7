"""The embedded default corpus: synthetic speakers, written as a small release in Common Voice's own layout.

The voices are those of eSpeak NG (GPL-3.0-or-later), driven through its C interface; the package ``espeakng-loader``
carries its library and data as an installed dependency, and nothing of it is part of this project. Figures measured on
this corpus are figures of synthetic voices.

A speaker is a voice variant, an English accent, a pitch, a pitch range, a speaking rate, a vocal tract length and a
spectral tilt. Everything else belongs to one clip: its sentence, a mood (jitter of pitch, rate and tilt), the room, the
microphone, the background noise, at times somebody else who talks in the background, and the gain. So the way a clip was
recorded says nothing about who speaks, and, as in recordings that people make where they happen to be, it hides much of it.
"""

import csv
import ctypes
import gzip
import hashlib
import tarfile
import tempfile
from _ctypes import dlclose
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import joblib
import numpy as np
import pandas as pd
import soundfile
import soxr
from scipy import fft
from tqdm import tqdm

from speakerprint.errors import InputError
from speakerprint.files import explain_full_disk
from speakerprint.params.sources import EspeakSource

SPLITS = ("train", "dev", "test")
SAMPLE_RATE_HZ = 48_000  # of the clips
ESPEAK_SAMPLE_RATE_HZ = 22_050
SCENE_SAMPLE_RATE_HZ = 24_000  # of rooms and microphones: eSpeak NG's speech has nothing above 11 kHz
RELEASE = Path("cv-corpus-demo/en")  # the folder inside the archive

# Some of eSpeak NG's variants that sound like a person: no robots, whispers, effects, near-copies or Klatt synthesis. They are
# few enough that several speakers share one and differ in what else makes a voice.
VARIANTS = {
    "female_feminine": "Annie anika belinda f1 f2 f3 f4 f5 linda steph",
    "male_masculine": "Andy Lee Mike m1 m2 m3 m4 m7 max norbert",
}
ACCENTS = {  # eSpeak NG's voice -> how contributors to Common Voice name the accent
    "en": "England English",
    "en-gb-x-rp": "England English,Received Pronunciation",
    "en-gb-x-gbclan": "England English,Lancashire",
    "en-gb-x-gbcwmd": "England English,West Midlands",
    "en-gb-scotland": "Scottish English",
    "en-us": "United States English",
    "en-us-nyc": "United States English,New York City",
    "en-029": "West Indies and Bermuda (Bahamas, Bermuda, Jamaica, Trinidad)",
}
AGES = ["teens", "twenties", "thirties", "fourties", "fifties", "sixties", "seventies"]  # as Common Voice spells them

# A sentence takes one choice from each line, or, half of the time, none from a line with a question mark.
GRAMMAR = """\
?yesterday|last winter|before breakfast|every other Sunday|around midnight|after the storm|in early autumn|now and then
my|our|her|his|their|the|some
patient|noisy|young|retired|careful|famous|sleepy|generous|foreign|curious|clumsy|brave|cheerful|hungry
baker|teacher|neighbours|cousin|painter|fishermen|doctor|uncle|musicians|farmer|librarian|engineer|children|goats|pilot|judge
carried|painted|borrowed|measured|photographed|forgot|polished|weighed|hid|described|bought|sold|found|dropped|wrapped|collected
?yellow|wooden|broken|heavy|tiny|frozen|silver|ancient|empty|purple|shiny|dusty|smooth|crooked|cheap|green|warm|fragile
boxes|violins|umbrellas|kettles|carpets|oranges|bicycles|letters|mirrors|jackets|engines|lanterns|cheeses|ropes|clocks|shoes
near|behind|beside|outside|in front of|across from|around|below
the harbour|a quiet church|the old bridge|our kitchen|the railway station|a muddy field|the northern gate|an orchard|a theatre
"""


@dataclass(frozen=True)
class Speaker:
    """What all clips of a synthetic speaker share."""

    client_id: str
    gender: str
    age: str
    accents: str
    voice: str  # accent+variant, as eSpeak NG names it
    pitch: int  # eSpeak NG's scale: 50 is the variant's own, 0 an octave lower, 99 an octave higher
    pitch_range: int  # 0-99, 50 is the variant's own
    rate_wpm: float  # words per minute
    resonance: float  # resonance frequencies relative to the variant's: the inverse of the vocal tract's length
    tilt_db: float  # per octave


def _generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(int(_digest(*key), 16))


def _digest(*key: object) -> str:
    """128 hexadecimal digits, as long as Common Voice's client_id."""
    return hashlib.sha512("/".join(map(str, key)).encode()).hexdigest()


def draw_speaker(seed: int, split: str, index: int) -> Speaker:
    """The speaker of that number in that split: the same for the same arguments, another for any other."""
    random = _generator(seed, split, index)
    gender = "female_feminine" if random.random() < 0.45 else "male_masculine"
    accent = random.choice(list(ACCENTS))
    return Speaker(
        client_id=_digest("client", seed, split, index),
        gender=gender,
        age=random.choice(AGES),
        accents=ACCENTS[accent],
        voice=f"{accent}+{random.choice(VARIANTS[gender].split())}",
        pitch=int(random.integers(35, 63)),
        pitch_range=int(random.integers(30, 80)),
        rate_wpm=random.uniform(150, 210),
        resonance=random.uniform(0.9, 1.1),
        tilt_db=random.normal(0, 1),
    )


def speak(text: str, voice: str, *, rate_wpm: int, pitch: int, pitch_range: int) -> np.ndarray:
    """Synthesise a text: float32 samples within [-1, 1] at ESPEAK_SAMPLE_RATE_HZ.

    eSpeak NG carries pitch flutter, gain control and random numbers over from one utterance to the next and offers no
    way to reset them. The library is therefore loaded anew for each utterance, so that a clip depends on nothing but
    its own arguments. Raises InputError if the library, its data or the voice cannot be loaded.
    """
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
    except (OSError, RuntimeError) as error:
        raise _unusable(str(error)) from None
    chunks = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def receive(samples: int | None, n_samples: int, _events: int) -> int:
        if samples:
            chunks.append(ctypes.string_at(samples, 2 * n_samples))
        return 0

    try:
        synchronous, no_buffer_length, do_not_exit = 2, 0, 0x8000
        if library.espeak_Initialize(synchronous, no_buffer_length, data.encode(), do_not_exit) != ESPEAK_SAMPLE_RATE_HZ:
            raise _unusable(f"it cannot read its data in {data} (a path of more than about 150 characters is too long for it)")
        library.espeak_SetSynthCallback(receive)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise _unusable(f"its data in {data} has no voice {voice!r}")
        for parameter, value in ((1, rate_wpm), (3, pitch), (4, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        utf8, from_start = 1, 0
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), from_start, 0, 0, utf8, None, None)
        library.espeak_Terminate()
    finally:
        dlclose(library._handle)
    return np.frombuffer(b"".join(chunks), np.int16).astype(np.float32) / 2**15


def _unusable(why: str) -> InputError:
    return InputError(
        f"the synthetic voices of eSpeak NG cannot be used: {why}. Reinstall them (pip install --force-reinstall "
        "espeakng-loader), or choose a corpus of another kind under corpora: in params.yaml"
    )


def _sentence(random: np.random.Generator) -> str:
    lines = [line for line in GRAMMAR.splitlines() if not line.startswith("?") or random.random() < 0.5]
    words = " ".join(random.choice(line.lstrip("?").split("|")) for line in lines)
    return f"{words[0].upper()}{words[1:]}."


def _room(random: np.random.Generator) -> np.ndarray:
    """Impulse response: the direct sound, then noise that decays by 60 dB within a random reverberation time."""
    decay_s = random.uniform(0.2, 1.0)
    time_s = np.arange(int(decay_s * SCENE_SAMPLE_RATE_HZ), dtype=np.float32) / SCENE_SAMPLE_RATE_HZ
    tail = random.standard_normal(len(time_s), np.float32) * 10 ** (-3 * time_s / decay_s)
    direct_to_reverberant_db = random.uniform(-5, 15)
    tail *= 10 ** (-direct_to_reverberant_db / 20) / np.linalg.norm(tail)
    tail[0] = 1
    return tail


def _microphone(random: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    """Gain at each frequency: a smooth random curve between a random low and high cut."""
    knots_hz = np.geomspace(60, 10_000, 9)
    curve_db = np.interp(np.log(frequency_hz), np.log(knots_hz), random.normal(0, 4, len(knots_hz)))
    low_cut_hz, high_cut_hz = random.uniform(50, 400), random.uniform(2_500, 10_000)
    return 10 ** (curve_db / 20) / (1 + (low_cut_hz / frequency_hz) ** 2) / (1 + (frequency_hz / high_cut_hz) ** 4)


def _noise(random: np.random.Generator, frequency_hz: np.ndarray, n: int) -> np.ndarray:
    """Spectrum of background noise: white to brown, at times with the hum of the mains; n samples."""
    spectrum = fft.rfft(random.standard_normal(n, np.float32)) * np.maximum(frequency_hz, 40) ** -random.uniform(0, 1)
    if random.random() < 0.3:
        mains_hz = random.choice([50, 60])
        for harmonic in range(1, 8):
            bin_ = round(harmonic * mains_hz * n / SCENE_SAMPLE_RATE_HZ)
            spectrum[bin_] += np.linalg.norm(spectrum) * random.uniform(0, 1) / harmonic
    return spectrum


def record(dry: np.ndarray, tilt_db: float, background: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Put dry speech at SCENE_SAMPLE_RATE_HZ into a random room with background noise, before a random microphone.

    ``tilt_db``, per octave, belongs to the voice. ``background`` is dry speech of somebody else, as long, or all zeros. Returns
    float32 of the same length.
    """
    room = _room(random)
    n = fft.next_fast_len(len(dry) + len(room), real=True)  # no wrap-around
    frequency_hz = np.maximum(fft.rfftfreq(n, 1 / SCENE_SAMPLE_RATE_HZ), 1).astype(np.float32)
    voice = 10 ** (tilt_db * np.log2(np.clip(frequency_hz, 100, 8_000) / 500) / 20)
    speech = fft.rfft(dry, n) * voice * fft.rfft(room, n)
    talk = fft.rfft(background, n) * fft.rfft(_room(random), n)
    talk *= np.linalg.norm(speech) / max(float(np.linalg.norm(talk)), 1e-9) / 10 ** (random.uniform(5, 25) / 20)
    noise = _noise(random, frequency_hz, n)
    signal_to_noise_db = random.uniform(0, 30)
    noise *= np.linalg.norm(speech) / np.linalg.norm(noise) / 10 ** (signal_to_noise_db / 20)
    waveform = fft.irfft((speech + talk + noise) * _microphone(random, frequency_hz), n)[: len(dry)]
    peak_db = random.uniform(-10, -2)
    return (waveform * 10 ** (peak_db / 20) / np.abs(waveform).max()).astype(np.float32)


def _background(random: np.random.Generator, n: int) -> np.ndarray:
    """Half of the time n samples of somebody else's dry speech at SCENE_SAMPLE_RATE_HZ, else of silence."""
    if random.random() < 0.5:
        return np.zeros(n, np.float32)
    other = draw_speaker(int(random.integers(2**32)), "background", 0)
    talk = speak(_sentence(random), other.voice, rate_wpm=round(other.rate_wpm), pitch=other.pitch, pitch_range=other.pitch_range)
    talk = soxr.resample(talk, ESPEAK_SAMPLE_RATE_HZ, SCENE_SAMPLE_RATE_HZ)
    return np.roll(np.resize(talk, n), random.integers(n))


def _votes(random: np.random.Generator) -> tuple[int, int]:
    up = 1 if random.random() < 0.1 else int(random.integers(2, 5))
    return up, int(random.random() < 0.05)


def _write_speaker(source: EspeakSource, split: str, index: int, clips: Path) -> list[dict]:
    """Write all clips of a speaker; returns their rows, with ``duration_ms`` besides the release's columns."""
    speaker = draw_speaker(source.seed, split, index)
    rows = []
    for clip in range(source.recordings_per_speaker):
        random = _generator(source.seed, split, index, clip)
        sentence = _sentence(random)
        spoken = speak(
            sentence,
            speaker.voice,
            # playing the speech faster raises its resonances, its pitch and its rate alike: undo the last here
            rate_wpm=round(speaker.rate_wpm * random.uniform(0.85, 1.15) / speaker.resonance),
            pitch=speaker.pitch + int(random.integers(-7, 8)),
            pitch_range=speaker.pitch_range + int(random.integers(-10, 11)),
        )
        dry = soxr.resample(spoken, ESPEAK_SAMPLE_RATE_HZ * speaker.resonance, SCENE_SAMPLE_RATE_HZ)
        pauses = (random.uniform(0.1, 0.4, 2) * SCENE_SAMPLE_RATE_HZ).astype(int)
        waveform = np.pad(dry, pauses)
        waveform = record(waveform, speaker.tilt_db + random.normal(0, 1.5), _background(random, len(waveform)), random)
        waveform = soxr.resample(waveform, SCENE_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
        number = 10_000_000 * (1 + SPLITS.index(split)) + index * source.recordings_per_speaker + clip
        path = f"common_voice_en_{number}.mp3"
        soundfile.write(clips / path, waveform, SAMPLE_RATE_HZ, bitrate_mode="VARIABLE", compression_level=0.9)
        up_votes, down_votes = _votes(random)
        rows.append(
            {
                "client_id": speaker.client_id,
                "path": path,
                "sentence_id": _digest(sentence)[:64],
                "sentence": sentence,
                "sentence_domain": "",
                "up_votes": up_votes,
                "down_votes": down_votes,
                "age": speaker.age,
                "gender": speaker.gender,
                "accents": speaker.accents,
                "variant": "",
                "locale": "en",
                "segment": "",
                "duration_ms": round(1000 * len(waveform) / SAMPLE_RATE_HZ),
            }
        )
    return rows


def _write_table(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_NONE, lineterminator="\n")


def _pack(folder: Path, files: list[Path], archive: Path) -> None:
    """A gzipped tar of those files, in that order, that holds no clock time, owner or name of this machine."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for file in files:
            member = tarfile.TarInfo(file.relative_to(folder).as_posix())
            member.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(member, content)


def write_release(source: EspeakSource, archive: Path) -> None:
    """Synthesise the source's splits and write them as one ``.tar.gz`` in the layout of a Common Voice release.

    The same source gives the same bytes, on however many cores. Tables come before the clips (48 kHz mono MP3). An
    archive appears under its name only when it is complete. Raises InputError for an unknown or repeated split, or if
    eSpeak NG cannot be used.
    """
    if not set(source.splits) <= set(SPLITS) or len(set(source.splits)) < len(source.splits):
        raise InputError(f"source.splits is {source.splits}; list some of {', '.join(SPLITS)}, each once")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary, explain_full_disk(archive, Path(temporary)):
        folder = Path(temporary)
        clips = folder / RELEASE / "clips"
        clips.mkdir(parents=True)
        jobs = [(split, index) for split in source.splits for index in range(source.speakers)]
        written = joblib.Parallel(n_jobs=-1, return_as="generator")(
            joblib.delayed(_write_speaker)(source, split, index, clips) for split, index in jobs
        )
        speakers = list(tqdm(written, "synthesise", len(jobs), unit="speaker", disable=None))
        rows = pd.concat([pd.DataFrame(rows).assign(split=split) for (split, _), rows in zip(jobs, speakers, strict=True)])
        durations = pd.DataFrame({"clip": rows["path"], "duration[ms]": rows.pop("duration_ms")})
        _write_table(durations, folder / RELEASE / "clip_durations.tsv")
        for split, of_split in rows.groupby(rows.pop("split")):
            _write_table(of_split, folder / RELEASE / f"{split}.tsv")
        packed = folder / "release.tar.gz"
        _pack(folder, sorted((folder / RELEASE).glob("*.tsv")) + sorted(clips.iterdir()), packed)
        packed.replace(archive)
