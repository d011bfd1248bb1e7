import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from speakerprint.errors import InputError
from speakerprint.params.augmentation import Augmentation
from speakerprint.params.filter import Filter
from speakerprint.params.presets import read_recipe
from speakerprint.params.section import read_section
from speakerprint.params.whole import load_params, parse_params
from tests.helpers import KEEP_EVERYTHING

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def tree():
    """The project's params with two corpora of our own."""
    tree = read_recipe("quick")
    shipped = YAML(typ="safe").load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    sections = ("pretrained", "language", "resample", "evaluation", "audit")
    tree |= {section: shipped[section] for section in sections}
    tree["corpora"] = {
        "learn": {"role": "train", "source": {"kind": "folder", "root": "/audio"}, "filter": dict(KEEP_EVERYTHING)},
        "judge": {"role": "evaluate", "source": {"kind": "voxceleb", "root": "/vox"}, "filter": dict(KEEP_EVERYTHING)},
    }
    tree["evaluation"]["corpora"] = ["judge"]
    tree["train_corpora"], tree["unlabelled_corpora"], tree["noise_corpora"] = ["learn"], [], []
    return tree


def edited(tree: dict, key: str, value: object) -> dict:
    """The tree with one dotted key set, or removed when the value is ``...``."""
    tree = copy.deepcopy(tree)
    *parents, last = key.split(".")
    section = tree
    for parent in parents:
        section = section[parent]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return tree


def test_the_params_of_this_checkout_are_valid():
    params = load_params(PROJECT / "params.yaml")
    assert set(params.train_corpora) | set(params.evaluation.corpora) == set(params.corpora)


def test_valid_params_keep_their_values(tree):
    params = parse_params(tree)
    assert params.corpora["learn"].source.root == "/audio"
    assert params.train_corpora == ["learn"]
    assert params.model_dump()["train"] == tree["train"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss.triplet_wieght", 1.0, "loss.triplet_wieght: unknown key; did you mean triplet_weight?"),
        ("corpora.learn.filter.min_votes", 1, "corpora.learn.filter.min_votes: unknown key; did you mean min_up_votes?"),
        ("corpora.learn.source.splits", ["train"], "corpora.learn.source.splits: unknown key"),
        ("train.steps", ..., "train.steps: missing key"),
        ("sampling", ..., "sampling: missing key"),
        ("corpora.judge.source.root", ..., "corpora.judge.source.root: missing key"),
        ("train.steps", "many", "train.steps: Input should be a valid integer, found 'many'"),
        ("train.steps", 1.5, "train.steps: Input should be a valid integer, found 1.5"),
        ("train.steps", -1, "train.steps: Input should be greater than or equal to 0, found -1"),
        ("train.new_head", 1, "train.new_head: Input should be a valid boolean, found 1"),
        ("model.layers", 7, "model.layers: Input should be less than or equal to 6, found 7"),
        ("model.pooling", "max", "model.pooling: Input should be 'mean' or 'attentive_statistics', found 'max'"),
        (
            "corpora.learn.role",
            "test",
            "corpora.learn.role: Input should be 'train', 'unlabelled', 'noise' or 'evaluate', found 'test'",
        ),
        ("corpora.learn.source.kind", "tape", "corpora.learn.source: Input tag 'tape'"),
        ("corpora.learn.filter.speaker_range", [0.7, 0.7], "corpora.learn.filter: speaker_range [0.7, 0.7] is empty"),
        ("corpora.learn.filter.max_recordings_per_speaker", 0, "corpora.learn.filter.max_recordings_per_speaker: Input"),
        ("corpora.learn.filter.genders", ["man"], "corpora.learn.filter.genders.0: Input should be 'male', 'female' or"),
        ("augmentation.ntxent.kinds", ["hiss"], "augmentation.ntxent.kinds.0: Input should be 'gaussian_noise'"),
        ("augmentation.ntxent.kinds_per_view", 9, "augmentation: ntxent.kinds_per_view is 9 but ntxent.kinds lists 7"),
        ("augmentation.triplet.kinds_per_clip", 5, "augmentation: triplet.kinds_per_clip is 5 but triplet.kinds lists 4"),
        ("corpora.judge.filter.languages", ["eng"], "corpora.judge.filter.languages: 'eng' is no language that Whisper knows"),
        ("corpora.judge.filter.languages", ["en", "German"], "did you mean de? It takes codes"),
        ("corpora.judge.filter.languages", [], "corpora.judge.filter.languages: List should have at least 1 item"),
        ("language.min_probability", 90, "language.min_probability: Input should be less than or equal to 1, found 90"),
        ("evaluation.corpora", [], "evaluation.corpora is [], but the corpora with role: evaluate are ['judge']"),
        ("evaluation.corpora", ["judge", "learn"], "evaluation.corpora is ['judge', 'learn']"),
        ("evaluation.corpora", ["judge", "judge"], "evaluation.corpora is ['judge', 'judge']"),
        ("train_corpora", ["judge"], "train_corpora is ['judge'], but the corpora with role: train are ['learn']"),
        ("unlabelled_corpora", ["learn"], "unlabelled_corpora is ['learn'], but the corpora with role: unlabelled are []"),
        ("noise_corpora", ["learn"], "noise_corpora is ['learn'], but the corpora with role: noise are []"),
        ("train_corpora", [], "train_corpora is [], but the corpora with role: train are ['learn']"),
        ("augmentation.ntxent.views", 0, "loss.ntxent_weight is above 0 but augmentation.ntxent.views is 0"),
        (
            "audit.corpora",
            {"all": ["judge", "learn", "gone"]},
            "audit.corpora.all lists 'gone', but the corpora are ['learn', 'judge']",
        ),
        ("audit.corpora", {"all": []}, "audit.corpora.all: List should have at least 1 item"),
        ("corpora.learn.filter.exclude", "mine.csv", "corpora.learn.filter.exclude: expected a file in data/given/exclude/"),
        ("augmentation.reverberation.min_decay_s", 2.0, "augmentation.reverberation: min_decay_s 2.0 is above max_decay_s 1.0"),
        ("sampling.utterances", 1, "loss.triplet_weight is above 0 but sampling.utterances is 1"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(tree, key, value, message):
    with pytest.raises(InputError) as caught:
        parse_params(edited(tree, key, value), Path("my.yaml"))
    first, *problems = str(caught.value).splitlines()
    assert first == "my.yaml is not valid:"
    assert len(problems) == 1
    assert message in problems[0]


@pytest.mark.parametrize(
    ("draw_per", "listed", "count", "enough"),
    [("clip", 2, 2, True), ("clip", 2, 3, False), ("speaker", 2, 3, True), ("speaker", 0, 1, False), ("speaker", 0, 0, True)],
)
def test_kinds_of_a_clip_are_different_and_those_of_a_speaker_may_come_again(draw_per, listed, count, enough):
    section = read_recipe("quick")["augmentation"]
    triplet = section["triplet"] | {"kinds": section["triplet"]["kinds"][:listed], "kinds_per_clip": count}
    with nullcontext() if enough else pytest.raises(ValueError, match=f"is {count} but triplet.kinds lists {listed}"):
        Augmentation.model_validate(section | {"draw_per": draw_per, "triplet": triplet})


def test_a_range_may_be_one_value():
    section = read_recipe("quick")["augmentation"]
    section["coloured_noise"]["min_snr_db"] = section["coloured_noise"]["max_snr_db"]
    assert Augmentation.model_validate(section).coloured_noise.min_snr_db == section["coloured_noise"]["max_snr_db"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revision": "main"}, "corpora.learn.source.revision: revision is not a commit (40 hexadecimal digits)"),
        (
            {"columns": {"speaker": "who"}},
            "corpora.learn.source.columns.speaker.[key]: Input should be 'recording_id', 'speaker_id'",
        ),
    ],
)
def test_a_dataset_on_the_hub_is_pinned_and_its_columns_are_a_recordings(tree, changes, message):
    hub = {"kind": "hub", "repository": "owner/name", "revision": "a" * 40, "configuration": None, "splits": ["train"]}
    parse_params(edited(tree, "corpora.learn.source", hub))
    with pytest.raises(InputError) as caught:
        parse_params(edited(tree, "corpora.learn.source", hub | changes))
    assert message in str(caught.value)


def test_a_range_of_recordings_or_durations_that_nobody_can_have_is_refused(tree):
    for low, high in (("min_recordings_per_speaker", "max_recordings_per_speaker"), ("min_duration_s", "max_duration_s")):
        impossible = edited(edited(tree, f"corpora.learn.filter.{low}", 5), f"corpora.learn.filter.{high}", 3)
        with pytest.raises(InputError, match=f"corpora.learn.filter: {high} is"):
            parse_params(impossible)


def test_a_loss_without_any_weight_is_refused(tree):
    tree["loss"] |= {name: 0.0 for name in tree["loss"] if name.endswith("_weight")}
    with pytest.raises(InputError, match="loss: every weight is 0"):
        parse_params(tree)


def test_params_without_a_corpus_to_train_on_are_refused(tree):
    del tree["corpora"]["learn"]
    tree["train_corpora"] = []
    with pytest.raises(InputError, match="no corpus has role: train"):
        parse_params(tree)


def test_every_wrong_key_is_named_at_once(tree):
    wrong = edited(edited(tree, "train.stepz", 1), "model.layers", 0)
    with pytest.raises(InputError) as caught:
        parse_params(wrong)
    assert "train.stepz" in str(caught.value)
    assert "model.layers" in str(caught.value)


def test_params_cannot_be_changed(tree):
    params = parse_params(tree)
    with pytest.raises(ValueError, match="frozen"):
        params.train.steps = 1


def test_an_unknown_corpus_is_refused_with_the_known_ones(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Path("params.yaml").open("w") as file:
        YAML(typ="safe").dump(tree, file)
    with pytest.raises(InputError, match=r"no corpora\.lern; did you mean learn\? known under corpora: judge, learn"):
        read_section(Filter, "corpora", "lern", "filter")


@pytest.mark.parametrize("name", ["x; touch pwned", "../..", "a b", "", "a/b", "$(id)", "naïve"])
def test_a_corpus_name_that_is_no_folder_name_is_refused(tree, name):
    tree["corpora"][name] = tree["corpora"].pop("judge")
    tree["evaluation"]["corpora"] = [name]
    with pytest.raises(InputError, match="should match pattern"):
        parse_params(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "does not exist"), ("a: [", "is not valid YAML"), ("", "is empty or not a mapping"), ("- a", "is empty or not")],
)
def test_a_file_that_holds_no_params_is_named(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_params(path)
    assert str(path) in str(caught.value)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS.encode(), "holds more than 100,000 values, its aliases written out"),
        (b"a: &a [*a]\n", "holds more than 100,000 values|is not valid YAML"),
        (b"corpora: \xff\xfe", "is not UTF-8 at byte 9; save it as UTF-8"),
        (b"[" * 2000, "is not valid YAML"),
        (b"a: !!python/object/apply:os.system [id]\n", "is not valid YAML"),
        (b"a: 2024-99-99\n", "is not valid YAML|a: unknown key"),
        (b"a: 1\na: 2\n", "is not valid YAML"),
        (b"a: \x00\n", "is not valid YAML"),
    ],
    ids=["aliases", "an alias of itself", "bytes", "brackets", "a tag", "no date", "a key twice", "a zero byte"],
)
def test_hostile_yaml_ends_in_a_message(tmp_path, content, message):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_params(tmp_path / "params.yaml")
