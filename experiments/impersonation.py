"""Whom does `verify` take for a person: a replay of them, and another voice that is made like theirs without a network.

    OMP_NUM_THREADS=1 python -m experiments.impersonation data/audio/{french,speechocean}_validation

The folders are what `resample` made. Of each speaker the first recording is enrolled; the second is what is played to the
microphone, and the third what an impersonator has of them. Impersonators are other speakers of the corpus, by their second.
`passes`: reaches the threshold of 1 % false accepts; `told so`: and is not doubted. No neural clone is among these.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.signal import butter, istft, sosfilt, stft
from scipy.spatial import KDTree

from experiments.conditions import Waveform, add_noise
from experiments.unfit_recordings import reverberant
from speakerprint import SpeakerEmbedder
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.resample import resample
from speakerprint.audio.voice_activity import NoSpeech
from speakerprint.corpora.resampling import read_audio

LOUDSPEAKER_HZ, LOUDSPEAKER_ORDER = (250, 6_500), 2  # of a telephone or a laptop
OVERDRIVE = 2.0  # of the loudest sample, into a curve that saturates at one
ROOMS_DB = (10, 5, 0)  # the direct sound above its echoes
ROOM_S, MICROPHONE_SNR_DB = 0.4, 30.0
PITCH_HZ = (60, 400)
FRAME, HOP = 640, 320  # samples, where a pitch is looked for
VOICED = 0.5  # of the autocorrelation's highest value
STFT = 512
CEPSTRA, NEAREST, GRIFFIN_LIM = 20, 4, 32  # coefficients, frames, iterations
IMPERSONATORS = 3


def loudspeaker(samples: Waveform) -> Waveform:
    """(samples,) as a small loudspeaker plays them: no bass, dull, and overdriven."""
    band = butter(LOUDSPEAKER_ORDER, LOUDSPEAKER_HZ, "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    played = sosfilt(band, samples)
    return np.tanh(OVERDRIVE * played / max(np.abs(played).max(), 1e-9)).astype(np.float32)


def replayed(samples: Waveform, random: np.random.Generator, direct_db: float) -> Waveform:
    """Played by a loudspeaker in a room, and recorded there with some noise."""
    heard = reverberant(loudspeaker(samples), random, direct_db, ROOM_S)
    return add_noise(heard, random.normal(size=len(heard)).astype(np.float32), MICROPHONE_SNR_DB)


def pitch_hz(samples: Waveform) -> float:
    """The median pitch of the voiced frames of (samples,), by autocorrelation; NaN where there is none."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames, 2 * FRAME)) ** 2
    correlation = np.fft.irfft(power)[:, :FRAME]
    correlation /= np.maximum(correlation[:, :1], 1e-9)
    low, high = (SAMPLE_RATE_HZ // rate for rate in PITCH_HZ[::-1])
    best = low + correlation[:, low:high].argmax(axis=1)
    voiced = correlation[np.arange(len(best)), best] > VOICED
    return float(np.median(SAMPLE_RATE_HZ / best[voiced])) if voiced.any() else float("nan")


def with_pitch_of(samples: Waveform, model: Waveform) -> Waveform:
    """(samples,) played faster or slower, so that pitch and formants move together, to the pitch of the model."""
    factor = np.clip(pitch_hz(model) / pitch_hz(samples), 0.7, 1.4)
    return samples if np.isnan(factor) else resample(samples, round(SAMPLE_RATE_HZ * factor), SAMPLE_RATE_HZ)


def with_spectrum_of(samples: Waveform, model: Waveform) -> Waveform:
    """(samples,) with the long-term average spectrum of the model: its timbre, as far as a filter gives it."""
    _, _, ours = stft(samples, nperseg=STFT)
    _, _, theirs = stft(model, nperseg=STFT)
    gain = np.sqrt((np.abs(theirs) ** 2).mean(axis=1) / np.maximum((np.abs(ours) ** 2).mean(axis=1), 1e-12))
    shaped = istft(ours * gain[:, None], nperseg=STFT)[1][: len(samples)]
    return (shaped / max(1.0, np.abs(shaped).max())).astype(np.float32)


def of_frames_of(samples: Waveform, model: Waveform) -> Waveform:
    """What (samples,) say in the voice of the model: each frame is the mean of the model's nearest, phases by Griffin and Lim.

    Nearest in cepstra without their mean, as in kNN voice conversion (Baas et al. 2023, arXiv 2305.18975), but without a network.
    """
    *_, ours = stft(samples, nperseg=STFT)
    *_, theirs = stft(model, nperseg=STFT)
    _, nearest = KDTree(_cepstra(theirs)).query(_cepstra(ours), k=NEAREST)
    levels = np.linalg.norm(theirs, axis=0)
    spectra = (np.abs(theirs) / np.maximum(levels, 1e-9))[:, nearest].mean(axis=2) * np.linalg.norm(ours, axis=0)
    spoken = spectra * np.exp(1j * np.angle(ours))
    for _ in range(GRIFFIN_LIM):
        *_, again = stft(istft(spoken, nperseg=STFT)[1], nperseg=STFT)
        spoken = spectra * np.exp(1j * np.angle(again[:, : spectra.shape[1]]))
    heard = istft(spoken, nperseg=STFT)[1][: len(samples)]
    return (heard / max(1.0, np.abs(heard).max())).astype(np.float32)


def _cepstra(spectra: NDArray[np.complexfloating]) -> NDArray[np.floating]:
    """Of frames (bins, frames), their first coefficients without the loudness, less their mean: (frames, CEPSTRA)."""
    of_frames = dct(np.log(np.abs(spectra) + 1e-5), axis=0, norm="ortho")[1 : CEPSTRA + 1].T
    return of_frames - of_frames.mean(axis=0)


def with_both_of(samples: Waveform, model: Waveform) -> Waveform:
    return with_spectrum_of(with_pitch_of(samples, model), model)


CONVERSIONS: dict[str, Callable[[Waveform, Waveform], Waveform]] = {
    "another speaker": lambda samples, model: samples,
    "another speaker, with their pitch": with_pitch_of,
    "another speaker, with their average spectrum": with_spectrum_of,
    "another speaker, with both": with_both_of,
    "another speaker, in frames of theirs": of_frames_of,
}


def attempts(recordings: dict[str, list[Waveform]]) -> Iterator[tuple[str, str, Waveform]]:
    """What is tried, on whom, and the recording; recordings: three of each speaker."""
    for number, (speaker, (enrolled, played, stolen)) in enumerate(recordings.items()):
        yield "the speaker, another recording", speaker, played
        for direct_db in ROOMS_DB:
            random = np.random.default_rng(number)
            yield f"replay of another recording, direct sound at {direct_db} dB", speaker, replayed(played, random, direct_db)
        yield "replay of what is enrolled, direct sound at 10 dB", speaker, replayed(enrolled, np.random.default_rng(number), 10)
        others = [name for name in recordings if name != speaker]
        for other in np.random.default_rng(number).permutation(others)[:IMPERSONATORS]:
            for name, convert in CONVERSIONS.items():
                yield name, speaker, convert(recordings[other][1], stolen)


def three_each(folder: Path) -> dict[str, list[Waveform]]:
    """The first three recordings of each speaker who has as many."""
    table, clips = read_audio(folder)
    found: dict[str, list[Waveform]] = {}
    for row, clip in zip(table.itertuples(), clips, strict=True):
        of_speaker = found.setdefault(row.speaker_id, [])
        if len(of_speaker) < 3:
            of_speaker.append(decode(clip, row.recording_id)[0])
    return {speaker: of_speaker for speaker, of_speaker in found.items() if len(of_speaker) == 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="+", type=Path, help="folders that `resample` made")
    embedder = SpeakerEmbedder.load(None, "cpu", require_speech=True)
    threshold, rows = embedder.threshold(0.01), []
    for folder in parser.parse_args().audio:
        recordings = three_each(folder)
        enrolled = {speaker: embedder.embed(three[0], SAMPLE_RATE_HZ) for speaker, three in recordings.items()}
        for name, speaker, heard in attempts(recordings):
            try:
                embedding, doubts = embedder.embed_with_doubts(heard, SAMPLE_RATE_HZ)
            except NoSpeech:
                continue
            score = float(embedding @ enrolled[speaker])
            rows.append((name, score, score >= threshold, score >= threshold and not doubts))
    table = pd.DataFrame(rows, columns=["what", "score", "passes", "told"]).groupby("what", sort=False)
    print("| tried as a speaker | tries | median score | passes, % | told so, % |\n|---|---|---|---|---|")
    for name, of in table:
        rates = f"{100 * of['passes'].mean():.1f} | {100 * of['told'].mean():.1f}"
        print(f"| {name} | {len(of)} | {of['score'].median():.2f} | {rates} |")


if __name__ == "__main__":
    main()
