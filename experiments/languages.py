"""How well Whisper base names the language of clips that are labelled: top-1, English against the rest, clips per second.

    OMP_NUM_THREADS=1 python -m experiments.languages ~/data/cv-corpus-6.1
    OMP_NUM_THREADS=1 python -m experiments.languages ~/data/cv-corpus-6.1 --english 10 --others 3 --silence 0 1 3 30

The folder is a Common Voice release (its validated.tsv): so many clips of English and of each other locale are taken, of the
speakers with most of them, at most three of each. --silence is how many seconds of it follow each clip: 0 is the clip alone, 30
Whisper's own padding. Top-1 counts locales whose language Whisper knows; English against the rest counts all. Seconds are the
CPU's, of features and model; decoding is left out.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.corpora.sources import read_source
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.errors import InputError
from speakerprint.model.language import LANGUAGES, LanguageModel, load_language_model
from speakerprint.model.whisper import MAX_FRAMES
from speakerprint.params.sources import CommonVoiceSource

PER_SPEAKER = 3


def choose(recordings: pd.DataFrame, english: int, others: int) -> pd.DataFrame:
    """Clips of each locale, at most three of a speaker, of the speakers with most recordings."""
    recordings = recordings.assign(language=recordings["locale"].str.split("-").str[0])
    few = recordings[recordings.groupby(["locale", "speaker_id"]).cumcount() < PER_SPEAKER]
    n_each = few.groupby(["locale", "speaker_id"])["recording_id"].transform("size")
    few = few.assign(n_each=n_each).sort_values(["n_each", "speaker_id", "recording_id"], ascending=[False, True, True])
    limit = few["locale"].eq("en").map({True: english, False: others})
    return few[few.groupby("locale").cumcount() < limit].reset_index(drop=True)


def hear(clips: list[np.ndarray], silence_s: float, model: LanguageModel, batch: int) -> np.ndarray:
    """Probabilities (clips, languages) of clips at 16 kHz, each followed by that much silence, in batches of similar length."""
    probabilities = np.zeros((len(clips), len(LANGUAGES)))
    order = np.argsort([len(clip) for clip in clips], kind="stable")
    silence = np.zeros(round(silence_s * SAMPLE_RATE_HZ), np.float32)
    for start in tqdm(range(0, len(clips), batch), desc=f"{silence_s:g} s of silence", unit="batch", disable=None):
        chosen = order[start : start + batch]
        features = [log_mel(np.concatenate([clips[index], silence]))[:MAX_FRAMES] for index in chosen]
        probabilities[chosen] = np.exp(model.hear(features))
    return probabilities


def figures(probabilities: np.ndarray, truth: pd.Series, min_probability: float = 0.0) -> dict[str, str]:
    """Top-1 in % where Whisper knows the language, and English against all others; what is less probable is unknown."""
    found = np.where(probabilities.max(axis=1) >= min_probability, np.array(LANGUAGES)[probabilities.argmax(axis=1)], "unknown")
    known = truth.isin(LANGUAGES).to_numpy()
    both, said, is_english = ((found == "en") & (truth == "en")).sum(), (found == "en").sum(), (truth == "en").sum()
    return {
        "top-1 %": f"{100 * (found == truth)[known].mean():.1f}",
        "English precision %": f"{100 * both / max(said, 1):.1f} ({both}/{said})",
        "English recall %": f"{100 * both / max(is_english, 1):.1f} ({both}/{is_english})",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of a Common Voice release")
    parser.add_argument("--english", type=int, default=100, help="clips of English")
    parser.add_argument("--others", type=int, default=8, help="clips of each other locale")
    parser.add_argument("--silence", type=float, nargs="+", default=[0.0], help="seconds after each clip")
    parser.add_argument("--batch", type=int, default=16, help="clips at once")
    parser.add_argument(
        "--whisper", type=Path, default=Path("data/pretrained/whisper.safetensors"), help="made if it is not there"
    )
    arguments = parser.parse_args()
    source = CommonVoiceSource(kind="common_voice", root=str(arguments.root), splits=["validated"])
    chosen = choose(read_source(source, "unused"), arguments.english, arguments.others)
    truth = chosen["language"]
    model = load_language_model("auto", arguments.whisper)
    clips: list[np.ndarray] = [np.zeros(0)] * len(chosen)
    for index, data in read_clips(chosen["location"].tolist()):
        if data is None:
            raise InputError(f"{chosen.at[index, 'location']} is not there any more")
        samples, sample_rate_hz = decode(data, chosen.at[index, "location"])
        clips[index] = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
    seconds, known = sum(map(len, clips)) / SAMPLE_RATE_HZ / len(clips), int(truth.isin(LANGUAGES).sum())
    print(f"{len(clips)} clips of {seconds:.1f} s in {chosen['locale'].nunique()} locales; Whisper knows the language of {known}")

    heard, rows = {}, {}
    for silence_s in arguments.silence:
        started = time.process_time()
        heard[silence_s] = hear(clips, silence_s, model, arguments.batch)
        speed = f"{len(clips) / (time.process_time() - started):.1f}"
        rows[f"followed by {silence_s:g} s of silence"] = figures(heard[silence_s], truth) | {"clips per CPU second": speed}
    probabilities = heard[arguments.silence[0]]
    rows |= {f"probability at least {least}": figures(probabilities, truth, least) for least in (0.3, 0.5, 0.7, 0.9)}
    print(pd.DataFrame(rows).T.fillna("").to_string())

    speakers = chosen[chosen["n_each"] == PER_SPEAKER].groupby(["locale", "speaker_id"]).indices.values()
    groups = np.array([rows for rows in speakers if len(rows) == PER_SPEAKER])
    rows = {
        f"{n} of {PER_SPEAKER} clips": figures(
            probabilities[groups[:, :n]].mean(axis=1), truth[groups[:, 0]].reset_index(drop=True)
        )
        for n in range(1, PER_SPEAKER + 1)
    }
    print(f"\n{len(groups)} speakers with {PER_SPEAKER} clips, mean of the probabilities\n{pd.DataFrame(rows).T.to_string()}")


if __name__ == "__main__":
    main()
