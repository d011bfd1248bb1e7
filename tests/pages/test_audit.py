"""The audit stage on a project of two corpora of synthetic voices, in which every kind of fault was planted once."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import soundfile
from ruamel.yaml import YAML

from experiments.audit_faults import plant, said
from speakerprint.audio.decode import decode
from speakerprint.audio.dimensions import SAMPLE_RATE_HZ
from speakerprint.audio.resample import encode, resample
from speakerprint.corpora.features import extract_corpus
from speakerprint.corpora.recordings import as_recordings, write_recordings
from speakerprint.corpora.resampling import resample_corpus
from speakerprint.corpora.selection import read_exclude_list
from speakerprint.corpora.sources import espeak, read_source
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.errors import InputError
from speakerprint.evaluation.audit import KINDS, Audit, Finding
from speakerprint.pages.audit import audit_corpora, render, write_exclude_lists
from speakerprint.params.resample import Resample
from speakerprint.params.sources import EspeakSource
from stages import audit as stage
from stages import filter as filter_stage
from stages import identify_language as language_stage

PROJECT = Path(__file__).parents[2]
FALSE_ALARMS = 3  # of all kinds together, in 86 recordings: synthetic voices are more alike than people (docs/audit.md)
CORPORA = ["voices_train", "voices_dev"]


def in_a_quiet_room(dry, tilt_db, background, random):
    """In place of `espeak.record`: speech 40 dB above white noise, at a level of its own."""
    speech = dry / np.abs(dry).max() * 10 ** (random.uniform(-10, -2) / 20)
    return (speech + 0.01 * speech.std() * random.standard_normal(len(dry))).astype(np.float32)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The project after `stages.audit`, and what was planted."""
    root = tmp_path_factory.mktemp("project")
    source = EspeakSource(kind="espeak", splits=["dev"], speakers=14, recordings_per_speaker=6, seed=1)
    with pytest.MonkeyPatch.context() as patch, joblib.parallel_config("sequential"):
        patch.setattr(espeak, "record", in_a_quiet_room)  # else voices hide in noise, and it would be the model that is tested
        table = read_source(source, str(root))
    encoded = {}
    for row, data in read_clips(table["location"].tolist()):
        assert data is not None
        encoded[row] = encode(resample(*decode(data, "clip"), SAMPLE_RATE_HZ), "flac")
    rows, changed, truth = plant(
        table.assign(corpus="")[["corpus", "recording_id", "speaker_id"]], encoded, 1, np.random.default_rng(1)
    )
    people = sorted(set(table["speaker_id"]))
    of_speaker = [CORPORA[people.index(speaker.removesuffix("-2")) % 2] for speaker in rows["speaker_id"]]
    rows["location"] = [str(root / f"clips/{name}.flac") for name in rows["recording_id"]]
    (root / "clips").mkdir()
    for row, location in enumerate(rows["location"]):
        samples = changed[row] if row in changed else decode(encoded[row], "clip")[0]
        soundfile.write(location, samples, SAMPLE_RATE_HZ)
    for corpus, role in zip(CORPORA, ("train", "evaluate"), strict=True):
        mine = as_recordings(rows[np.array(of_speaker) == corpus].drop(columns="corpus"), corpus)
        write_recordings(mine, root / f"data/recordings/{corpus}/recordings.parquet")
        with joblib.parallel_config("threading"):  # processes take seconds to start
            resample_corpus(
                mine,
                root / f"data/audio/{corpus}",
                Resample(engine="soxr", encoding="flac", min_duration_s=0.1, max_bad_fraction=0.0),
            )
            extract_corpus(root / f"data/audio/{corpus}", root / f"data/features/{role}/{corpus}")
    params = YAML(typ="safe").load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    _, corpus = params["corpora"].popitem()
    params["corpora"] = {name: corpus | {"role": role} for name, role in zip(CORPORA, ("train", "evaluate"), strict=True)}
    params["train_corpora"], params["evaluation"]["corpora"] = CORPORA[:1], CORPORA[1:]
    params["audit"] |= {"corpora": {"voices": CORPORA}, "model": str(PROJECT / "src/speakerprint/models/speakerprint-base")}
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(params, file)
    found = []
    with pytest.MonkeyPatch.context() as patch, joblib.parallel_config("threading"):
        patch.chdir(root)
        patch.setattr(stage, "audit_corpora", lambda *arguments: found.append(audit_corpora(*arguments)) or found[0])
        stage.main("voices")
    return root, found[0], truth


@pytest.mark.slow
def test_every_planted_fault_is_found_and_hardly_anything_else(audited):
    _, found, truth = audited
    says = {kind: said(found, kind) for kind in KINDS}
    assert {kind: truth[kind] - says[kind] for kind in KINDS if truth[kind] - says[kind]} == {}
    assert sum(len(says[kind] - truth[kind]) for kind in KINDS) <= FALSE_ALARMS


@pytest.mark.slow
def test_the_report_counts_what_was_found(audited):
    root, found, _ = audited
    report = json.loads((root / "metrics/audit/voices.json").read_text(encoding="utf-8"))
    assert report["found"] == {kind: sum(one.kind == kind for one in found.findings) for kind in KINDS}
    assert sum(corpus["found"]["odd"] for corpus in report["corpora"].values()) == report["found"]["odd"]
    assert report["recordings"] == len(found.recordings) == 86
    assert not any(speaker in json.dumps(report) for speaker in found.recordings["speaker_id"])


@pytest.mark.slow
def test_a_proposed_list_is_one_that_the_filter_reads(audited, monkeypatch):
    root, _, truth = audited
    monkeypatch.chdir(root)
    proposed = set()
    for corpus in CORPORA:
        path = Path(f"data/audit/voices/{corpus}.csv")
        recordings = pd.read_parquet(f"data/recordings/{corpus}/recordings.parquet")
        names = [row["recording_id"] for row in csv.DictReader(path.open(encoding="utf-8", newline=""))]
        assert len(names) == len(set(names)) and read_exclude_list(path, [recordings]) == set(names)
        proposed |= set(names)
    for kind in ("odd", "near_silent", "clipped", "little_speech", "exact_duplicate", "near_duplicate"):
        assert all(names & proposed for names in truth[kind]), kind

    Path("data/given/exclude").mkdir(parents=True)
    shutil.copy("data/audit/voices/voices_train.csv", "data/given/exclude/train.csv")
    yaml = YAML(typ="safe")
    params = yaml.load(Path("params.yaml"))
    params["corpora"]["voices_train"]["filter"] |= {"exclude": "data/given/exclude/train.csv", "min_recordings_per_speaker": 1}
    yaml.dump(params, Path("params.yaml"))
    language_stage.main("voices_train")
    filter_stage.main("voices_train")
    selected = set(pd.read_parquet("data/selection/voices_train.parquet")["recording_id"])
    assert selected and not selected & proposed
    rules = json.loads(Path("metrics/data/voices_train.filter.json").read_text(encoding="utf-8"))["rules"]
    dropped = rules[0]["recordings"] - rules[1]["recordings"]
    assert dropped and rules[1]["rule"] == f"not in data/given/exclude/train.csv ({dropped} recordings)"


@pytest.mark.slow
def test_the_page_is_whole_in_itself_and_plays_every_finding(audited):
    root, found, _ = audited
    page = (root / "data/audit/voices/report.html").read_text(encoding="utf-8")
    assert not re.search(r"\{\{|src=\"(?!data:audio/ogg)|href=\"(?!data:)|<script", page)
    shown = sum(1 + (one.other is not None) for one in found.findings)
    assert page.count("<audio") == shown


def test_a_name_cannot_be_markup():
    rows = pd.DataFrame({"corpus": ["c"], "recording_id": ["<b>"], "speaker_id": ["<i>"]})
    found = Audit(rows, [Finding("clipped", 0, None, 0.5, (0,))], {"recordings": 1, "speakers": 1})
    page = render(found, "<u>", {})
    assert not re.search("<[biu]>", page) and "not in this file" in page


def test_a_recording_with_two_faults_is_listed_once_with_the_first(tmp_path):
    rows = pd.DataFrame({"corpus": ["c"] * 2, "recording_id": ["a", "b"], "speaker_id": ["x", "y"]})
    findings = [Finding("same_person", 0, 1, 0.7, (0,)), Finding("clipped", 0, None, 0.5, (0,))]
    write_exclude_lists(Audit(rows, findings, {}), tmp_path)
    assert (tmp_path / "c.csv").read_text() == "recording_id,reason,other,value\na,clipped,,0.5\n"


def test_a_corpus_without_features_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nothing: Any = None  # neither embedder nor settings are asked
    with pytest.raises(InputError, match="mine has 0 folders data/features"):
        audit_corpora(["mine"], nothing, nothing)
