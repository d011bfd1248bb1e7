"""Plant faults in a corpus and count what the audit finds of them.

    OMP_NUM_THREADS=1 python -m experiments.audit_faults data/audio/french_report --repeats 5

The folder is one that `resample` made. Each time, of every kind of fault, as many recordings as `--faults` says get it:

* odd: a recording goes to another speaker's id (of at least three recordings, both);
* same_person: half of a speaker's recordings (of at least four) go to a new id;
* near_silent: at -80 dB; clipped: 20 dB beyond full scale, cut off there and halved; little_speech: white noise as loud instead;
* exact_duplicate: a copy under another speaker's id; near_duplicate: such a copy, at a quarter to all of its level, through Opus
  at 16 kbit/s or MP3 at 32 kbit/s.

What the audit says of the corpus as it is, is not counted as wrong (nobody knows), but printed beside it: `before`. `other` is
what it says only once the faults are there, and of no planted one.
"""

import argparse
import io
from pathlib import Path

import av
import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from speakerprint import SpeakerEmbedder
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.log_mel import log_mel
from speakerprint.audio.resample import resample
from speakerprint.corpora.resampling import read_audio
from speakerprint.evaluation.audit import KINDS, Audit, Sound, audit, hear
from speakerprint.params.whole import load_params

Heard = tuple[Sound, NDArray[np.float32], NDArray[np.float32]]  # sound, embedding, features


def recode(samples: NDArray[np.float32], codec: str) -> NDArray[np.float32]:
    """Samples at 16 kHz after an encoder: `opus` at 16 kbit/s or `mp3` at 32 kbit/s."""
    stream = io.BytesIO()
    if codec == "mp3":  # at 16 kHz MP3 has constant rates of 8 to 160 kbit/s, from level 1 to level 0
        soundfile.write(stream, samples, SAMPLE_RATE_HZ, format="MP3", bitrate_mode="CONSTANT", compression_level=0.84)
    else:
        with av.open(stream, "w", format="ogg") as file:
            track = file.add_stream("libopus", rate=SAMPLE_RATE_HZ, layout="mono", bit_rate=16_000)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="flt", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            file.mux([*track.encode(frame), *track.encode(None)])
    decoded, sample_rate_hz = decode(stream.getvalue(), codec)
    return resample(decoded, sample_rate_hz, SAMPLE_RATE_HZ)


def plant(
    rows: pd.DataFrame, samples_of: dict[int, bytes], faults: int, random: np.random.Generator
) -> tuple[pd.DataFrame, dict[int, NDArray[np.float32]], dict[str, set[frozenset[str]]]]:
    """The rows with faults, the new samples of some, and what each kind's findings should name: sets of ids (see `said`)."""
    rows = rows.copy()
    sizes = rows["speaker_id"].value_counts()
    speakers = iter(random.permutation(sizes.index[sizes >= 4]).tolist())  # each has one fault
    truth: dict[str, set[frozenset[str]]] = {kind: set() for kind in KINDS}
    changed: dict[int, NDArray[np.float32]] = {}

    def some_row() -> int:
        return int(random.choice(np.flatnonzero(rows["speaker_id"] == next(speakers))))

    for number in range(faults):
        row = some_row()
        rows.loc[row, "speaker_id"] = next(speakers)
        truth["odd"].add(frozenset([rows["recording_id"][row]]))

        speaker = next(speakers)
        mine = random.permutation(np.flatnonzero(rows["speaker_id"] == speaker))
        rows.loc[mine[: len(mine) // 2], "speaker_id"] = f"{speaker}-2"
        truth["same_person"].add(frozenset([speaker, f"{speaker}-2"]))

        for kind in ("near_silent", "clipped", "little_speech"):
            row = some_row()
            samples = decode(samples_of[row], "clip")[0]
            if kind == "near_silent":
                samples = samples * np.float32(1e-4)
            elif kind == "clipped":
                samples = np.clip(10 * samples / np.abs(samples).max(), -1, 1) / 2
            else:
                samples = random.normal(scale=np.sqrt(np.mean(samples**2)), size=len(samples)).astype(np.float32)
            changed[row] = samples
            truth[kind].add(frozenset([rows["recording_id"][row]]))

        for kind in ("exact_duplicate", "near_duplicate"):
            row = some_row()
            samples = decode(samples_of[row], "clip")[0]
            if kind == "near_duplicate":
                samples = recode(samples * np.float32(random.uniform(0.25, 1)), ("opus", "mp3")[number % 2])
            copy = f"{rows['recording_id'][row]}-copy"
            rows.loc[len(rows)] = {"corpus": rows["corpus"][row], "recording_id": copy, "speaker_id": next(speakers)}
            changed[len(rows) - 1] = samples
            truth[kind].add(frozenset([rows["recording_id"][row], copy]))
    return rows, changed, truth


def said(found: Audit, kind: str) -> set[frozenset[str]]:
    """What an audit names: of ids that are alike the speakers, of copies both recordings, else the recording."""
    names = found.recordings["speaker_id" if kind == "same_person" else "recording_id"].tolist()
    pair = kind in ("same_person", "exact_duplicate", "near_duplicate")
    return {
        frozenset([names[one.recording], *([names[one.other]] if pair and one.other is not None else [])])
        for one in found.findings
        if one.kind == kind
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="a folder that `resample` made")
    parser.add_argument("--model", type=Path, help="folder of a trained model; without it, the shipped one")
    parser.add_argument("--faults", type=int, default=5, help="of each kind, each time")
    parser.add_argument("--repeats", type=int, default=5, help="times, each from another seed")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    arguments = parser.parse_args()
    model = SpeakerEmbedder.load(arguments.model)
    settings = load_params().audit

    def listen(samples: NDArray[np.float32]) -> Heard:
        features = log_mel(samples)
        return hear(samples), model.embed_frames([features])[0], features.astype(np.float16)

    recordings, clips = read_audio(arguments.audio)
    rows = recordings.assign(corpus=arguments.audio.name)[["corpus", "recording_id", "speaker_id"]]
    encoded = dict(enumerate(clips))
    heard = [listen(decode(clip, "clip")[0]) for clip in tqdm(encoded.values(), "listen", unit="recording", disable=None)]

    def audited(rows: pd.DataFrame, heard: list[Heard]) -> Audit:
        sounds, embeddings, features = zip(*heard, strict=True)
        return audit(rows, sounds, np.stack(embeddings), features.__getitem__, settings)

    before = audited(rows, heard)
    counts = pd.DataFrame(0, index=list(KINDS), columns=["planted", "found", "other", "before"])
    counts["before"] = [len(said(before, kind)) for kind in KINDS]
    for seed in range(arguments.seed, arguments.seed + arguments.repeats):
        faulty, changed, truth = plant(rows, encoded, arguments.faults, np.random.default_rng(seed))
        now = heard + [heard[0]] * (len(faulty) - len(heard))
        for row, samples in changed.items():
            now[row] = listen(samples)
        after = audited(faulty, now)
        for kind in KINDS:
            says = said(after, kind)
            halves = {names: frozenset(name.removesuffix("-2") for name in names) for names in says}
            other = {names for names in says - truth[kind] if halves[names] not in said(before, kind)}
            counts.loc[kind, ["planted", "found", "other"]] += [len(truth[kind]), len(truth[kind] & says), len(other)]
            for names in truth[kind] - says:
                print(f"seed {seed}: missed {kind} {sorted(names)}")
            for names in other:
                print(f"seed {seed}: also {kind} {sorted(names)}")
    counts["recall"] = counts["found"] / counts["planted"]
    counts["precision"] = counts["found"] / (counts["found"] + counts["other"])
    print(f"{len(rows)} recordings of {rows['speaker_id'].nunique()} speakers, {arguments.repeats} times")
    print(f"as it is: {before.report['corpora'][arguments.audio.name]}, {before.report['same_person']}")
    print(counts.to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
