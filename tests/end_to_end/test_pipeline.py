"""Which stages run after which change, shown by the real `dvc` on a tiny corpus.

Every test finds the project as it was after its first run; values are used once, since DVC brings back a result it has seen.
"""

import hashlib
import json
import shutil

import pandas as pd
import pytest
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from tests.end_to_end.conftest import Project, stages_that_ran

pytestmark = pytest.mark.slow

SELECTION = ("identify_language", "filter", "resample", "features")
DATA = {f"{stage}@{corpus}" for stage in ("download", *SELECTION) for corpus in ("demo_train", "demo_dev")}
TRAIN_AND_EVALUATE = {"train", "evaluate@demo_dev"}


def test_the_first_run_runs_every_stage(project):
    assert set(project.first.stages) == {"check", "pretrained", "plan"} | DATA | TRAIN_AND_EVALUATE


def test_the_first_run_looked_up_no_name_and_opened_no_address(project):
    if project.watch is None:
        pytest.skip("nothing here can compile what watches name look-ups")
    assert project.first.looked_up == []


def test_metrics_pictures_and_the_model_are_there(project):
    metrics = json.loads((project.folder / "metrics/demo_dev.json").read_text())
    assert 0 <= metrics["eer_low"] <= metrics["eer"] <= metrics["eer_high"] <= 1
    details = json.loads((project.folder / "metrics/demo_dev.details.json").read_text())
    assert details["log_mel_floor"]["eer"] == metrics["log_mel_floor_eer"]
    pictures = {path.name for path in (project.folder / "metrics/plots/demo_dev").glob("*.png")}
    assert pictures == {"det.png", "scores.png", "projection.png", "confusions.png"}
    folder = project.folder / "models/speakerprint"
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "config.json", "params.yaml"}
    assert any(name.startswith("encoder.layers.0.") for name in load_file(folder / "model.safetensors"))
    assert not (project.folder / "models/checkpoint/checkpoint.pt").exists()


def test_git_has_the_figures_and_dvc_the_rest(project):
    assert project.run("git", "status", "--porcelain") == ""
    assert project.run("git", "ls-files", "metrics").split() == ["metrics/demo_dev.json"]


def test_nothing_changed_runs_nothing(project):
    assert project.repro() == set()


def test_votes_rerun_that_corpus_from_its_selection_on_and_undoing_them_runs_no_command(project):
    before = project.contents()
    project.set_params({"corpora.demo_train.filter.min_up_votes": 1})
    of_corpus = {f"{stage}@demo_train" for stage in SELECTION}
    assert project.repro() == {"check", "plan"} | of_corpus | TRAIN_AND_EVALUATE
    assert project.contents() != before
    project.set_params({"corpora.demo_train.filter.min_up_votes": 2})
    output = project.run("dvc", "repro")
    assert stages_that_ran(output) == set()
    assert all(f"Stage '{stage}' is cached" in output for stage in of_corpus | TRAIN_AND_EVALUATE)
    assert project.contents() == before


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("corpora.demo_dev.filter.max_down_votes", 9, {"identify_language@demo_dev", "filter@demo_dev"}),
        ("resample.encoding", "wav", {"resample@demo_train", "resample@demo_dev"}),
        ("augmentation.gaussian_noise.std", 0.2, {"train"}),
        ("sampling.speakers", 3, {"plan", "train"}),
        ("evaluation.bootstrap_samples", 150, {"evaluate@demo_dev"}),
    ],
)
def test_a_setting_changes_the_stages_that_read_it(project, key, value, stages):
    project.set_params({key: value})
    assert project.changed() == {"check"} | stages


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("src/speakerprint/params/loss.py", {"check", "train"}),
        ("src/speakerprint/params/augmentation.py", {"check", "train"}),
        ("src/speakerprint/training/losses.py", {"train"}),
        ("src/speakerprint/training/loop.py", {"train"}),
        ("src/speakerprint/evaluation/plots.py", {"evaluate@demo_dev"}),
        ("src/speakerprint/cli/pipeline.py", set()),
    ],
)
def test_an_edit_of_code_changes_the_stages_that_run_it(project, file, stages):
    (project.folder / file).open("a").write("# a change\n")
    assert project.changed() == stages


def test_a_changed_trial_list_reruns_evaluate_only(project):
    recordings = pd.read_parquet(project.folder / "data/features/evaluate/demo_dev/recordings.parquet")
    ids = recordings.groupby("speaker_id")["recording_id"].agg(list).tolist()
    path = project.folder / "data/given/trials/demo_dev.txt"
    lines = [f"1 {ids[0][0]}.mp3 {ids[0][1]}.mp3", f"0 {ids[0][0]}.mp3 {ids[1][0]}.mp3", f"0 {ids[0][1]} {ids[1][1]}"]
    path.write_text("\n".join(lines))
    assert project.repro() == {"evaluate@demo_dev"}
    details = json.loads((project.folder / "metrics/demo_dev.details.json").read_text())
    assert (details["target_trials"], details["nontarget_trials"], details["skipped_trials"]) == (1, 2, 0)


def test_no_stage_writes_through_a_link_into_the_cache(project):
    """Inputs and outputs are hard links into DVC's cache; as root, which no permission stops, a write would change it."""
    assert (project.folder / "models/speakerprint/model.safetensors").stat().st_nlink > 1
    for stage in ("identify_language demo_dev", "filter demo_dev", "resample demo_dev", "train", "evaluate demo_dev"):
        project.run("python", "-m", *f"stages.{stage}".split())
    for path in (project.folder / ".dvc/cache/files/md5").rglob("*"):
        if path.is_file():
            assert hashlib.md5(path.read_bytes()).hexdigest() == (path.parent.name + path.name).removesuffix(".dir")
    assert project.changed() == set()


def test_results_travel_to_a_second_clone_through_a_remote(project, tmp_path):
    project.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.run("dvc", "push", "-q")
    project.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.programs)
    clone.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    clone.run("dvc", "pull", "-q")
    assert clone.contents() == project.contents()
    assert clone.changed() == set()


def test_an_experiment_on_a_loss_reruns_train_and_evaluate_shows_in_the_diff_and_undoing_it_runs_no_command(project):
    contents, before = project.contents(), (project.folder / "params.yaml").read_text().splitlines()
    output = project.run("dvc", "exp", "run", "-S", "loss.ntxent_weight=0.55", "--name", "heavier")
    assert stages_that_ran(output) == {"check"} | TRAIN_AND_EVALUATE
    after = (project.folder / "params.yaml").read_text().splitlines()
    differ = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(differ) == 1 and differ[0][1].split("#")[0].split() == ["ntxent_weight:", "0.55"] and "#" in differ[0][1]
    assert set(json.loads(project.run("dvc", "metrics", "diff", "--all", "--json"))) == {"metrics/demo_dev.json"}
    project.run("dvc", "plots", "diff", "HEAD", "--out", "dvc_plots")
    page = (project.folder / "dvc_plots/index.html").read_text()
    assert "DET" in page and "false accept rate" in page and "ntxent" in page
    project.run("git", "checkout", "-q", "params.yaml")
    output = project.run("dvc", "repro")
    assert stages_that_ran(output) == set() and "Stage 'train' is cached" in output
    assert project.contents() == contents


def test_corpora_of_one_archive_read_it_once_for_lists_and_once_for_clips(project, tmp_path):
    """Two corpora of one release, by other votes; every time an archive is opened is noted."""
    shutil.copy(project.folder / "data/recordings/demo_train/cv-corpus-demo.tar.gz", tmp_path)
    yaml = YAML(typ="safe")
    params = yaml.load((project.folder / "params.yaml").read_text())
    source = {"kind": "common_voice", "root": str(tmp_path / "cv-corpus-demo.tar.gz"), "splits": ["train"]}
    filter = params["corpora"]["demo_train"]["filter"]
    params["corpora"] = {
        f"part{number}": {"role": "train", "source": source, "filter": filter | {"max_down_votes": number}} for number in range(2)
    }
    params |= {"train_corpora": list(params["corpora"]), "evaluation": params["evaluation"] | {"corpora": []}}
    yaml.dump(params, project.folder / "params.yaml")
    clips = "src/speakerprint/corpora/sources/clips.py"
    opened = tmp_path / "opened"
    project.replace(clips, 'archive.open("rb") as file,', f'archive.open("rb") as file, open("{opened}", "a") as note,')
    project.replace(clips, "            stream: IO", '            note.write("opened\\n")\n            stream: IO')
    of_corpora = {f"{stage}@{name}" for stage in ("download", *SELECTION[:3]) for name in params["corpora"]}
    assert project.repro("resample") == {"check", "plan"} | of_corpora
    assert opened.read_text() == "opened\n" * 2
    project.set_params({"corpora.part0.filter.min_up_votes": 1})  # again, but not of the other
    assert {"resample@part0", "resample@part1"} & project.repro("resample") == {"resample@part0"}
    assert opened.read_text() == "opened\n" * 3
    left = [path.name for path in (project.folder / "data/unfinished").rglob("*") if path.is_file()]
    assert sorted(left) == ["clips.lock", "lists.lock"]


def test_an_experiment_in_a_folder_of_its_own_runs_and_is_shown(project):
    """As DVC's queue runs them: what the stages need must be tracked or linked there."""
    project.run("dvc", "exp", "run", "--temp", "-S", "evaluation.bootstrap_samples=101")
    shown = json.loads(project.run("dvc", "exp", "show", "--json", "--only-changed", "--hide-workspace"))
    experiments = [revision["data"] for exp in shown[-1]["experiments"] or [] for revision in exp["revs"]]
    samples = {data["params"]["params.yaml"]["data"]["evaluation"]["bootstrap_samples"] for data in experiments if data}
    assert 101 in samples
    assert all(data["metrics"]["metrics/demo_dev.json"]["data"]["eer"] >= 0 for data in experiments)
