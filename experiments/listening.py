"""Who is speaking now: the error and the latency of `Listener` beside `diarize` on conversations that `make_conversations` wrote.

    OMP_NUM_THREADS=1 .diarization/bin/python -m experiments.listening data/conversations/validation_enrolled
    OMP_NUM_THREADS=1 .diarization/bin/python -m experiments.listening data/conversations/report_enrolled --markdown table.md

The conversations are those of `make_conversations --enrol 2`: the listener knows everybody by two recordings, or nobody. It is
given chunks of 0.1 s. Latency is from where the reference says that a turn of LONG_S or more begins to the chunk after which the
listener names its speaker, for turns that are named before their end. The environment is that of experiments/diarization.py;
--set changes constants of speakerprint.inference.listener.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from experiments.diarization import System, Turns, measure, ours, summary
from speakerprint import Gallery, Listener, SpeakerEmbedder
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.errors import InputError
from speakerprint.inference import listener

CHUNK_S = 0.1
LONG_S = 2.0


class Online:
    """A `Listener` as a system: of each conversation, the turns, and after how many seconds it was told that who speaks."""

    def __init__(self, embedder: SpeakerEmbedder, enrolled: bool):
        self.embedder, self.enrolled = embedder, enrolled
        self.told: dict[Path, list[tuple[float, str | None]]] = {}

    def __call__(self, path: Path) -> Turns:
        with tempfile.TemporaryDirectory() as folder:
            gallery = None
            if self.enrolled:
                gallery = Gallery.open(folder, self.embedder)
                for speaker in sorted(path.with_suffix("").iterdir()):
                    files = sorted(map(str, speaker.iterdir()))
                    gallery.enrol(speaker.name, self.embedder.embed_files(files), files)
            return self._listen(path, Listener(embedder=self.embedder, gallery=gallery))

    def _listen(self, path: Path, listener: Listener) -> Turns:
        samples, _ = soundfile.read(path, dtype="int16")
        told = self.told[path] = []
        size = round(CHUNK_S * SAMPLE_RATE_HZ)
        events = []
        for number, start in enumerate(range(0, len(samples), size), start=1):
            events += listener.hear(samples[start : start + size])
            told.append((number * CHUNK_S, listener.speaker))
        events += listener.end()
        starts = [event for event in events if event.kind == "start"]
        ends = [event for event in events if event.kind == "end"]
        return [(s.time_s, e.time_s, s.speaker) for s, e in zip(starts, ends, strict=True) if s.time_s < e.time_s]


def latencies(path: Path, told: list[tuple[float, str | None]]) -> list[tuple[bool, float]]:
    """For each long turn of the reference: is it the speaker's first, and after how long they were named (inf: never)."""
    rows = [line.split() for line in path.with_suffix(".rttm").read_text().splitlines()]
    found, known = [], set()
    for start_s, length_s, speaker in sorted((float(row[3]), float(row[4]), row[7]) for row in rows):
        if length_s < LONG_S:
            continue
        named = [at_s for at_s, name in told if start_s < at_s <= start_s + length_s and name == speaker]
        found.append((speaker not in known, named[0] - start_s if named else np.inf))
        known.add(speaker)
    return found


def report(system: Online) -> str:
    """How late the names of a system come."""
    rows = pd.DataFrame([one for path, told in system.told.items() for one in latencies(path, told)], columns=["first", "late_s"])
    lines = []
    for name, part in (("all turns", rows), ("the first of each speaker", rows[rows["first"]])):
        late = part["late_s"][np.isfinite(part["late_s"])]
        low, high = late.quantile([0.5, 0.9])
        lines.append(
            f"{name} of {LONG_S:g} s or more: {len(late)} of {len(part)} named, after {low:.2f} s (median), {high:.2f} s (90 %)"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `make_conversations --enrol 2` wrote")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--online-only", action="store_true", help="leave `diarize` out")
    parser.add_argument("--number", type=int, help="conversations; by default all")
    parser.add_argument("--markdown", type=Path, help="write the table")
    arguments = parser.parse_args()
    for name, value in (given.split("=") for given in arguments.set):
        if not hasattr(listener, name):
            raise InputError(f"--set {name}: there is no such constant in {listener.__name__}")
        setattr(listener, name, type(getattr(listener, name))(value))
    embedder = SpeakerEmbedder.load()
    known = Online(embedder, enrolled=True)
    systems: dict[str, System] = {
        "listen, everybody enrolled": known,
        "listen, nobody enrolled": Online(embedder, enrolled=False),
    }
    if not arguments.online_only:
        systems["diarize"] = ours(known=False)
    paths = sorted(arguments.folder.glob("*.wav"))[: arguments.number]
    table = {}
    for name, system in systems.items():
        rows = measure(system, paths)
        table[name] = summary(rows) | {"CPU share": 100 * rows["cpu_s"].sum() / rows["duration_s"].sum()}
    whole = pd.DataFrame(table).T.round(1)
    print(whole.to_string(), report(known), sep="\n")
    if arguments.markdown:
        arguments.markdown.write_text(whole.to_markdown() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
