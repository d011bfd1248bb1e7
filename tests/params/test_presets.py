import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from speakerprint.errors import InputError
from speakerprint.params.presets import PRESETS, RECIPE, list_presets, read_recipe, use_preset
from speakerprint.params.whole import load_params

PROJECT = Path(__file__).parents[2]
NAMES = list(list_presets())
ADDED = ("corpora/common_voice_evaluate", "corpora/unlabelled", "corpora/voxceleb1", "corpora/voxceleb2")  # nothing to learn from


def load(path: Path) -> dict:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def root_of(name: str, folder: Path) -> Path | None:
    """A directory such as the preset wants, with what it reads below it; None for a preset that reads nothing from disk."""
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    for below in re.findall(r"root: DIR/(\w+)", text):
        (folder / below).mkdir(exist_ok=True)
    return folder if "root: DIR" in text else None


def copy_of_project(folder: Path) -> Path:
    shutil.copytree(PRESETS, folder / "presets")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(scope="module")
def switched(tmp_path_factory):
    """A copy of the project's settings, at the demo and the quick recipe, whatever this checkout is switched to."""
    folder = copy_of_project(tmp_path_factory.mktemp("switched"))
    for name in ("corpora/demo", "recipes/quick"):
        use_preset(name, folder / "params.yaml", dvc_yaml_path=folder / "dvc.yaml")
    return folder


@pytest.fixture
def project(switched, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(switched, tmp_path, dirs_exist_ok=True))
    return tmp_path


def texts(project: Path) -> list[str]:
    return [(project / name).read_text(encoding="utf-8") for name in ("params.yaml", "dvc.yaml")]


@pytest.mark.slow
def test_the_shipped_params_are_the_defaults_with_the_demo_and_the_quick_recipe(tmp_path):
    """As committed: a checkout may be switched to anything."""
    shutil.copy(PRESETS / "defaults.yaml", tmp_path / "params.yaml")
    committed = {}
    for name in ("params.yaml", "dvc.yaml"):
        shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=PROJECT, capture_output=True, encoding="utf-8")
        if shown.returncode != 0:
            pytest.skip("not a git checkout")
        committed[name] = shown.stdout
    (tmp_path / "dvc.yaml").write_text(committed["dvc.yaml"], encoding="utf-8")
    for name in ("corpora/demo", "recipes/quick"):
        use_preset(name, tmp_path / "params.yaml", dvc_yaml_path=tmp_path / "dvc.yaml")
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in committed} == committed


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_gives_valid_params_and_leads_back_byte_for_byte(project, tmp_path, name):
    before = texts(project)
    use_preset(name, root=root_of(name, tmp_path), add=name in ADDED)
    load_params("params.yaml")
    use_preset("corpora/demo")
    use_preset("recipes/quick")
    assert texts(project) == before


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_says_in_its_first_line_what_it_is(name):
    assert re.fullmatch(r"[A-Z].{20,110}\.", list_presets()[name])


def differences(tree: dict, defaults: dict, path: str = "") -> dict:
    """Dotted keys of a tree, with their values, split into those that repeat a default and those that do not."""
    found: dict[bool, dict] = {True: {}, False: {}}
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            below = differences(value, defaults[key], f"{path}{key}.")
            found = {same: found[same] | below[same] for same in found}
        else:
            found[value == defaults.get(key, ...)][path + key] = value
    return found


def at(tree: dict, key: str) -> object:
    for part in key.split("."):
        tree = tree[part]
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("recipes/")])
def test_a_recipe_states_only_differences_and_sets_its_sections_and_no_other_line(project, name):
    before = texts(project)
    use_preset("recipes/default")
    use_preset(name)
    after, params, defaults = texts(project), load(project / "params.yaml"), load(PRESETS / "defaults.yaml")
    stated = differences(load(PRESETS / f"{name}.yaml") or {}, defaults)
    assert stated[True] == {}
    assert differences({section: params[section] for section in RECIPE}, defaults)[False] == stated[False]
    assert read_recipe(name.removeprefix("recipes/")) == {section: params[section] for section in RECIPE}
    first, last = "\nmodel:\n", "\n# --- evaluate"
    assert [before[0].split(first)[0], before[0].split(last)[1]] == [after[0].split(first)[0], after[0].split(last)[1]]
    assert after[1] == before[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("corpora/")])
def test_a_preset_of_corpora_states_only_differences_of_the_filter_and_writes_whole_entries(project, tmp_path, name):
    use_preset(name, root=root_of(name, tmp_path), add=name in ADDED)
    written, entry = load(project / "params.yaml")["corpora"], load(PRESETS / "corpus.yaml")["corpus"]
    for corpus, stated in load(PRESETS / f"{name}.yaml")["corpora"].items():
        assert differences(stated.get("filter", {}), entry["filter"])[True] == {}
        assert written[corpus]["filter"] == entry["filter"] | stated.get("filter", {})
        assert list(written[corpus]["source"]) == list(entry["source"][stated["source"]["kind"]])


def test_corpora_change_their_block_the_lists_of_them_and_the_curves(project, tmp_path):
    before = texts(project)
    use_preset("corpora/common_voice_17", root=tmp_path)
    after = texts(project)
    kept = [text.split("\n# --- pretrained")[1].splitlines() for text in (before[0], after[0])]
    changed = [(old, new) for old, new in zip(*kept, strict=True) if old != new]
    assert changed == [("- demo_train", "- common_voice_17_train"), ("  - demo_dev", "  - common_voice_17_dev")]
    assert after[0].count("# votes; recordings with fewer are dropped") == 1  # the first entry has the comments
    assert before[0].split("\ncorpora:")[0] == after[0].split("\ncorpora:")[0]
    assert after[1] == before[1].replace("demo_dev", "common_voice_17_dev")


@pytest.mark.slow
def test_the_users_own_comments_and_layout_elsewhere_survive(project, tmp_path):
    path = project / "params.yaml"
    mine = path.read_text().replace("  engine: soxr ", '  engine:   "resampy"  # slow, on purpose\n\n  # a note of mine\n#')
    mine = mine.replace("\nloss:\n", "\n# why so\nloss:   # mine\n")
    path.write_text(mine)
    use_preset("corpora/folder", root=tmp_path)
    assert path.read_text().partition("\nresample:")[2].partition("\n# --- evaluate")[0] == (
        mine.partition("\nresample:")[2].partition("\n# --- evaluate")[0].replace("demo_train", "folder_train")
    )
    assert load_params(path).resample.engine == "resampy"


@pytest.mark.slow
def test_a_recipe_changes_values_and_leaves_the_users_comments_beside_them(project):
    path = project / "params.yaml"
    path.write_text(
        path.read_text().replace("  steps: 64 ", "  # enough here\n  steps: 70                               # mine\n#")
    )
    use_preset("recipes/robust")
    assert "  # enough here\n  steps: 1500                             # mine\n" in path.read_text()


@pytest.mark.slow
def test_root_is_written_as_an_absolute_path_to_every_source(project):
    odd = project / 'my "corpus": v1 # é'
    odd.mkdir()
    use_preset("corpora/common_voice_sample", root=odd.name)
    roots = {corpus["source"]["root"] for corpus in load(project / "params.yaml")["corpora"].values()}
    assert roots == {str(odd)}


@pytest.mark.slow
def test_a_corpus_of_noise_is_listed_as_such_and_forgotten_with_its_features(project):
    for name in ("french", "english", "locales", "speechocean", "librispeech", "noise"):
        (project / name).mkdir()
    features = Path("data/features/noise/recorded_noise")
    use_preset("corpora/protocol", root=project)
    assert load_params("params.yaml").noise_corpora == ["recorded_noise"]
    features.mkdir(parents=True)
    assert use_preset("corpora/demo").removed == [features]
    assert load_params("params.yaml").noise_corpora == [] and not features.exists()


@pytest.mark.slow
def test_an_unlabelled_corpus_is_added_listed_as_such_and_forgotten_with_its_features(project):
    (project / "speech").mkdir()
    use_preset("corpora/unlabelled", root="speech", add=True)
    assert (params := load_params("params.yaml")).unlabelled_corpora == ["unlabelled"] and params.train_corpora == ["demo_train"]
    features = Path("data/features/unlabelled/unlabelled")
    features.mkdir(parents=True)
    assert use_preset("corpora/demo").removed == [features]


@pytest.mark.slow
def test_add_keeps_the_corpora_that_are_there_and_replaces_those_of_the_same_name(project):
    before = texts(project)[0]
    for root in ("first", "second"):
        (project / root).mkdir()
        use_preset("corpora/voxceleb2", root=root, add=True)
    corpora = load(project / "params.yaml")["corpora"]
    assert list(corpora) == ["demo_train", "demo_dev", "voxceleb2"]
    assert corpora["voxceleb2"]["source"]["root"] == str(project / "second")
    assert texts(project)[0].startswith(before.split("\n\n# --- pretrained")[0])
    assert load_params("params.yaml").train_corpora == ["demo_train"]
    assert load_params("params.yaml").evaluation.corpora == ["demo_dev", "voxceleb2"]
    assert load_params("params.yaml").noise_corpora == []
    assert [plot[title]["y"] for plot in load(project / "dvc.yaml")["plots"] for title in plot if title in ("DET", "ROC")] == [
        {f"metrics/plots/{corpus}/{file}": rate for corpus in ("demo_dev", "voxceleb2")}
        for file, rate in (("det.csv", "miss_rate"), ("roc.csv", "true_accept_rate"))
    ]


def test_plots_of_other_files_are_left_alone(project, tmp_path):
    path = project / "dvc.yaml"
    other = "  - Loss:\n      x: step\n      y:\n        metrics/training/loss.tsv: loss\n  - metrics/other.csv\n"
    path.write_text(path.read_text() + other)
    use_preset("corpora/folder", root=tmp_path)
    assert path.read_text().endswith(other)


@pytest.mark.slow
def test_features_of_corpora_no_longer_trained_on_are_removed_and_nothing_else(project, tmp_path):
    folders = [project / "data/features" / name for name in ("train/demo_train", "train/strange", "evaluate/demo_dev")]
    for folder in folders:
        folder.mkdir(parents=True)
    assert use_preset("recipes/default").removed == []
    assert use_preset("corpora/folder", root=tmp_path).removed == [Path("data/features/train/demo_train")]
    assert [folder.exists() for folder in folders] == [False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["..", "../..", "../../mine", "/elsewhere", "a/b", "", "mine\n"])
def test_a_corpus_is_not_removed_whose_name_leads_elsewhere(project, tmp_path, name):
    precious = [
        project / "data/features/train/kept/array",
        project / "data/mine/array",
        project / "data/features/train/a/b/array",
    ]
    for file in precious:
        file.parent.mkdir(parents=True)
        file.touch()
    name = name.replace("/elsewhere", str(project / "data/mine"))
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("  demo_train:", f"  {json.dumps(name)}:"))
    assert use_preset("corpora/folder", root=tmp_path).removed == []
    assert all(file.exists() for file in precious)


@pytest.mark.slow
def test_features_that_are_a_link_to_another_place_are_left_alone(project, tmp_path):
    (project / "mine").mkdir()
    (project / "data/features/train").mkdir(parents=True)
    (project / "data/features/train/demo_train").symlink_to(project / "mine")
    assert use_preset("corpora/folder", root=tmp_path).removed == []
    assert (project / "mine").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "corpora/dmo"}, "did you mean corpora/demo"),
        ({"name": "reference"}, "did you mean recipes/reference"),
        ({"name": "../params"}, "there are: corpora/common_voice_17"),
        ({"name": "recipes/../../../params"}, "there are: corpora/common_voice_17"),
        ({"name": "corpora/folder"}, "needs --root"),
        ({"name": "corpora/folder", "root": "nowhere"}, "--root nowhere: there is no such directory"),
        ({"name": "corpora/demo", "root": "."}, "leave out --root"),
        ({"name": "recipes/quick", "add": True}, "leave out --add"),
        ({"name": "corpora/voxceleb2", "root": "."}, "--add keeps the corpora"),
        ({"name": "recipes/wrong"}, "train.stepz: unknown key"),
    ],
)
def test_a_refused_preset_changes_nothing_and_says_why(project, arguments, message, monkeypatch):
    monkeypatch.setattr("speakerprint.params.presets.PRESETS", project / "presets")
    (project / "presets/recipes/wrong.yaml").write_text("train: {stepz: 60}\n")
    stale = project / "data/features/train/demo_train"
    stale.mkdir(parents=True)
    before = texts(project)
    with pytest.raises(InputError) as caught:
        use_preset(**arguments)
    assert message in str(caught.value)
    assert texts(project) == before
    assert stale.exists()


def test_a_file_that_is_not_yaml_is_named(project):
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(InputError, match=r"dvc\.yaml is not valid YAML"):
        use_preset("recipes/default")


def test_a_missing_section_is_named(project):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("\nsampling:", "\nsamplings:"))
    with pytest.raises(InputError, match="there is no section sampling"):
        use_preset("recipes/default")


@pytest.mark.slow
def test_presets_train_and_evaluate_on_disjoint_speakers_of_one_root(project, tmp_path):
    for name in ("common_voice_sample", "folder"):
        use_preset(f"corpora/{name}", root=tmp_path)
        corpora = load_params("params.yaml").corpora
        train, evaluate = (corpora[f"{name}_{part}"].filter.speaker_range for part in ("train", "dev"))
        assert (train[0], train[1], evaluate[1]) == (0.0, evaluate[0], 1.0)


def test_a_root_without_a_corpus_that_the_preset_reads_is_refused_by_its_name(project, tmp_path):
    (tmp_path / "french").mkdir()
    before = texts(project)
    with pytest.raises(InputError, match=r"holds no english .* which preset corpora/protocol reads"):
        use_preset("corpora/protocol", root=tmp_path)
    assert texts(project) == before
