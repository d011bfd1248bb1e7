"""The shipped model: whole, small enough for git, and able to tell voices that it never heard apart."""

import json
import re
import tarfile

import numpy as np
import pytest
from ruamel.yaml import YAML

from speakerprint import SpeakerEmbedder
from speakerprint.audio.decode import decode
from speakerprint.corpora.sources import espeak
from speakerprint.evaluation.trials import equal_error_rate
from speakerprint.inference.model_folder import SHIPPED
from speakerprint.params.sources import EspeakSource


def test_its_folder_holds_what_made_it():
    assert (SHIPPED / "model.safetensors").stat().st_size <= 32e6
    config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    assert re.fullmatch("[0-9a-f]{40}", config["commit"])
    assert set(config["thresholds"]) == {"0.01", "0.001"}
    made_by = YAML(typ="safe").load(SHIPPED / "params.yaml")
    assert made_by["model"].items() >= config["model"].items()  # it was trained when there were more settings
    assert (SHIPPED / "README.md").is_file()


@pytest.mark.slow
def test_it_loads_without_an_argument_and_tells_strangers_apart(tmp_path):
    source = EspeakSource(kind="espeak", splits=["dev"], speakers=8, recordings_per_speaker=4, seed=7)
    espeak.write_release(source, tmp_path / "release.tar.gz")
    with tarfile.open(tmp_path / "release.tar.gz") as tar:
        clips = {member.name: tar.extractfile(member).read() for member in tar if member.name.endswith(".mp3")}
        table = next(member for member in tar if member.name.endswith("dev.tsv"))
        rows = [line.split("\t") for line in tar.extractfile(table).read().decode().splitlines()]
    speaker_of = {row[rows[0].index("path")]: row[rows[0].index("client_id")] for row in rows[1:]}
    chosen = {name: clip for name, clip in clips.items() if name.rsplit("/", 1)[1] in speaker_of}
    assert len(chosen) >= 16
    embedder = SpeakerEmbedder.load()
    embeddings = np.stack([embedder.embed(*decode(clip, name)) for name, clip in chosen.items()])
    speakers = [speaker_of[name.rsplit("/", 1)[1]] for name in chosen]
    assert equal_error_rate(embeddings, np.array(speakers)) < 0.25
    assert sorted(embedder.thresholds) == [0.001, 0.01]
    assert embedder.thresholds[0.001] > embedder.thresholds[0.01]
