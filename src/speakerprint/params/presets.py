"""Switch params.yaml to a preset; whatever the preset does not set keeps its bytes, comments included.

A preset says only what differs: one of corpora from ``presets/corpus.yaml`` (what an entry under ``corpora`` holds), a recipe
from ``presets/defaults.yaml`` (the rest of params.yaml). ``DIR`` as a ``root``, or at the start of one (``DIR/name``), stands for
the directory that the user gives.
"""

import json
import re
import shutil
from copy import deepcopy
from difflib import get_close_matches, unified_diff
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from speakerprint.errors import InputError
from speakerprint.files import write_text
from speakerprint.params.edit import edit_section, merge, plain, set_section
from speakerprint.params.role import Role
from speakerprint.params.section import NAME, read_tree
from speakerprint.params.whole import Params, parse_params

PRESETS = Path(__file__).parents[1] / "presets"
RECIPE = ("model", "loss", "sampling", "augmentation", "discriminant", "train")  # the sections that a recipe sets
CURVE = re.compile(r"metrics/plots/[^/]+/([^/]+\.csv)")


class Change(NamedTuple):
    """What use_preset did: a unified diff of the files it rewrote, and the folders it removed."""

    diff: str
    removed: list[Path]


def list_presets() -> dict[str, str]:
    """The first line of each preset, which says what it is, by name (``corpora/demo``, ...), sorted."""
    paths = sorted(PRESETS.glob("*/*.yaml"))
    return {f"{path.parent.name}/{path.stem}": path.read_text("utf-8").split("\n")[0].lstrip("# ") for path in paths}


def read_recipe(name: str = "default") -> dict[str, Any]:
    """The sections of params.yaml that a recipe sets, whole: the defaults, with what the recipe changes."""
    return json.loads(json.dumps(_merged(name)))  # numbers as written become numbers


def _merged(recipe: str) -> CommentedMap:
    defaults = _load("defaults")
    sections = CommentedMap({section: defaults[section] for section in RECIPE})
    merge(sections, _load(f"recipes/{recipe}") or {})
    return sections


def use_preset(
    name: str,
    params_path: str | Path = "params.yaml",
    root: str | Path | None = None,
    dvc_yaml_path: str | Path = "dvc.yaml",
    *,
    add: bool = False,
) -> Change:
    """Set in params.yaml what a preset says: the sections of a recipe, or the corpora and the lists of them.

    name: ``corpora/...`` or ``recipes/...``, found among the package's presets.
    root: where the recordings are, for the presets of corpora on disk; written as an absolute path.
    add: keep the corpora that are there, and replace only those of the same name.

    With the corpora change the curves in dvc.yaml's plots, and data/features/{train,unlabelled,noise}, which `train` reads whole:
    the features of corpora that it no longer reads are removed (DVC's cache keeps a copy).
    Raises InputError, and changes nothing, for an unknown preset, a missing or needless root, or an invalid result.
    """
    params_path, dvc_yaml_path = Path(params_path), Path(dvc_yaml_path)
    if name not in (known := list(list_presets())):
        likely = [one for one in known if one.endswith(f"/{name}")] or get_close_matches(name, known, n=1)
        hint = f"did you mean {likely[0]}? There" if likely else "there"
        raise InputError(f"no preset is called {name!r}; {hint} are: {', '.join(known)}")
    entries = _read_corpora(name, root) if name.startswith("corpora/") else {}
    if not entries and (add or root is not None):
        raise InputError(f"preset {name} has no corpora; leave out {'--add' if add else '--root'}")
    if entries and not add and all(entry["role"] != "train" for entry in entries.values()):
        raise InputError(f"preset {name} has no speakers to learn from; --add keeps the corpora that you have")
    before, _ = read_tree(params_path), read_tree(dvc_yaml_path)
    texts = [path.read_text(encoding="utf-8") for path in (params_path, dvc_yaml_path)]
    try:
        if add:
            parse_params(before, params_path)
        if entries:
            after = _set_corpora(texts[0], entries, add)
        else:
            after = texts[0]
            for section, values in _merged(name.removeprefix("recipes/")).items():
                after = set_section(after, section, values)
        params = parse_params(YAML(typ="safe").load(after), params_path)
    except InputError as error:
        raise InputError(f"nothing was changed: with preset {name}, {error}") from None
    plots = edit_section(texts[1], "plots", lambda tree: _draw_curves(tree, params.evaluation.corpora), sequence=4, offset=2)

    diff = ""
    for path, old, new in zip((params_path, dvc_yaml_path), texts, (after, plots), strict=True):
        if new != old:
            write_text(new, path)
            diff += "".join(unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path.name}", f"b/{path.name}"))
    return Change(diff, _remove_stale(params_path.parent / "data/features", list(before.get("corpora") or ()), params))


def _load(name: str) -> Any:
    return YAML().load(PRESETS / f"{name}.yaml")


def _remove_stale(features: Path, corpora: list[Any], params: Params) -> list[Path]:
    """Remove the features of corpora that training no longer reads: folders right below those of their role, nothing else."""
    removed = []
    read = {"train": params.train_corpora, "unlabelled": params.unlabelled_corpora, "noise": params.noise_corpora}
    for folder, kept in ((features / role, names) for role, names in read.items()):
        for stale in (folder / name for name in map(str, corpora) if re.fullmatch(NAME, name) and name not in kept):
            if stale.is_dir() and stale.resolve().parent == folder.resolve():
                shutil.rmtree(stale)
                removed.append(stale)
    return removed


def _read_corpora(name: str, root: str | Path | None) -> dict[str, Any]:
    """The entries that a preset stands for, whole: the first with its comments, which hold for all, the others plain."""
    corpora = _load(name)["corpora"]
    on_disk = [entry["source"] for entry in corpora.values() if entry["source"].get("root", "").split("/")[0] == "DIR"]
    if on_disk and root is None:
        raise InputError(f"preset {name} needs --root, where its recordings are ({PRESETS / name}.yaml says of what kind)")
    if root is not None and not on_disk:
        raise InputError(f"preset {name} reads nothing from disk; leave out --root")
    for source in on_disk:
        place = Path(root or "").expanduser().resolve()
        source["root"] = str(place / source["root"][4:])
        if not place.exists():
            raise InputError(f"--root {root}: there is no such directory or archive ({place})")
        if not Path(source["root"]).exists():
            raise InputError(f"--root {root} holds no {Path(source['root']).name} ({source['root']}), which preset {name} reads")
    whole = _load("corpus")["corpus"]
    entries: dict[str, Any] = {}
    for corpus, differences in corpora.items():
        entry = deepcopy(whole)
        entry["source"] = entry["source"][differences["source"]["kind"]]
        merge(entry, differences)
        entries[corpus] = plain(entry) if entries else entry
    return entries


def _set_corpora(text: str, entries: dict[str, Any], add: bool) -> str:
    """Corpora of the same name are replaced, others come last; the lists name them by their role."""

    def replace(tree: CommentedMap) -> None:
        if not (add and tree["corpora"]):
            tree["corpora"] = CommentedMap()
        tree["corpora"].update(entries)

    text = edit_section(text, "corpora", replace)
    roles = {name: corpus["role"] for name, corpus in YAML(typ="safe").load(text)["corpora"].items()}
    of_role = {role: [name for name in roles if roles[name] == role] for role in get_args(Role)}
    for role in ("train", "unlabelled", "noise"):
        text = set_section(text, f"{role}_corpora", of_role[role])
    text = set_section(text, "evaluation", {"corpora": of_role["evaluate"]})
    return text


def _draw_curves(tree: CommentedMap, evaluated: list[str]) -> None:
    """The plots of dvc.yaml that are made of metrics/plots/CORPUS/*.csv have one curve of each evaluated corpus."""
    for settings in (settings for plot in tree["plots"] if isinstance(plot, dict) for settings in plot.values()):
        curves = settings.get("y") if isinstance(settings, dict) else None
        if isinstance(curves, dict) and all(map(CURVE.fullmatch, curves)):
            kinds = {CURVE.sub(r"\1", path): column for path, column in curves.items()}
            settings["y"] = {f"metrics/plots/{name}/{file}": column for name in evaluated for file, column in kinds.items()}
