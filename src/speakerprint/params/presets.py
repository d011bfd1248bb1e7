"""Switch params.yaml to a preset: the sections that the preset has are replaced, every other byte stays.

A preset is a YAML file in the package's ``presets/`` that holds whole sections of params.yaml, comments included; ``DIR`` as a
``root``, or at the start of one (``DIR/name``), stands for the directory that the user gives.
"""

import json
import re
import shutil
from difflib import get_close_matches, unified_diff
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from speakerprint.errors import InputError
from speakerprint.params.whole import parse_params

PRESETS = Path(__file__).parents[1] / "presets"
COMMENT_COLUMN = 42  # where the comments of params.yaml stand
ROOT = re.compile(r"^( +root:) DIR(/[^ #]+)? *(#.*)?$", flags=re.MULTILINE)
CURVE = re.compile(r"metrics/plots/[^/]+/([^/]+\.csv)")


class Change(NamedTuple):
    """What use_preset did: a unified diff of the files it rewrote, and the folders it removed."""

    diff: str
    removed: list[Path]


def list_presets(folder: Path) -> list[str]:
    """Names of the presets in a folder (``corpora/demo``, ...), sorted."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml"))


def use_preset(
    name: str,
    params_path: str | Path = "params.yaml",
    root: str | Path | None = None,
    dvc_yaml_path: str | Path = "dvc.yaml",
    *,
    add: bool = False,
) -> Change:
    """Replace the sections of params.yaml that a preset has.

    name: ``corpora/...`` or ``recipes/...``, found among the package's presets.
    root: where the recordings are, for the presets of corpora on disk; written as an absolute path.
    add: keep the corpora that are there, and replace only those of the same name.

    With the corpora change ``evaluation.corpora`` in params.yaml, the curves in dvc.yaml's plots, and data/features/train, which
    `train` reads whole: the features of corpora that are no longer trained on are removed (DVC's cache keeps a copy).
    Raises InputError, and changes nothing, for an unknown preset, a missing or needless root, or an invalid result.
    """
    params_path, dvc_yaml_path = Path(params_path), Path(dvc_yaml_path)
    preset = _read_preset(PRESETS, name, root)
    before, plots_before = _read(params_path), _read(dvc_yaml_path)
    sections = _load(preset)
    corpora_before = _load(before).get("corpora") or {}

    if add and "corpora" not in sections:
        raise InputError(f"preset {name} has no corpora to add; leave out --add")
    if not add and {corpus["role"] for corpus in sections.get("corpora", {}).values()} == {"evaluate"}:
        raise InputError(f"preset {name} is for evaluation and has nothing to learn from; --add keeps the corpora that you have")
    try:
        if add:
            parse_params(_load(before), params_path)
            after = _add_corpora(before, preset)
        else:
            after = before
            for section in sections:
                after = _replace_entry(after, (section,), _entry_text(preset, section))
        if "corpora" in sections:
            after = _list_corpora(after, "train", "train_corpora")
            after = _list_corpora(after, "noise", "noise_corpora")
            after = _list_corpora(after, "evaluate", "evaluation", "corpora")
        params = parse_params(_load(after), params_path)
    except InputError as error:
        raise InputError(f"nothing was changed: with preset {name}, {error}") from None
    plots_after = _draw_curves(plots_before, params.evaluation.corpora)

    changed = [
        (path, old, new)
        for path, old, new in ((params_path, before, after), (dvc_yaml_path, plots_before, plots_after))
        if new != old
    ]
    for path, _, new in changed:
        _write(path, new)
    return Change(
        diff="".join(_diff(path, old, new) for path, old, new in changed),
        removed=_remove(
            [
                params_path.parent / "data/features" / role / corpus
                for role, kept in (("train", params.train_corpora), ("noise", params.noise_corpora))
                for corpus in sorted(set(corpora_before) - set(kept))
            ]
        ),
    )


# --- files ------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        if not isinstance(_load(text), dict):
            raise InputError(f"{path} is not a mapping of sections; start from the repository's file")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run this in the project's root") from None
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    return text


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _remove(folders: list[Path]) -> list[Path]:
    there = [folder for folder in folders if folder.is_dir()]
    for folder in there:
        shutil.rmtree(folder)
    return there


def _diff(path: Path, old: str, new: str) -> str:
    return "".join(unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path.name}", f"b/{path.name}"))


def _read_preset(folder: Path, name: str, root: str | Path | None) -> str:
    known = list_presets(folder)
    if name not in known:
        likely = [one for one in known if one.endswith(f"/{name}")] or get_close_matches(name, known, n=1)
        hint = f"did you mean {likely[0]}? There" if likely else "there"
        raise InputError(f"no preset is called {name!r}; {hint} are: {', '.join(known) or f'none in {folder}'}")
    text = _read(folder / f"{name}.yaml")
    if not ROOT.search(text):
        if root is not None:
            raise InputError(f"preset {name} reads nothing from disk; leave out --root")
        return text
    if root is None:
        raise InputError(f"preset {name} needs --root, where its recordings are ({folder / name}.yaml says of what kind)")
    place = Path(root).expanduser().resolve()
    if not place.exists():
        raise InputError(f"--root {root}: there is no such directory or archive ({place})")
    for below in sorted({match[2] for match in ROOT.finditer(text) if match[2]}):
        if not (place / below[1:]).exists():
            raise InputError(f"--root {root} holds no {below[1:]} ({place}{below}), which preset {name} reads")

    def fill(line: re.Match[str]) -> str:
        value = json.dumps(f"{place}{line[2] or ''}", ensure_ascii=False)
        return _with_comment(f"{line[1]} {value}", line[3])

    return ROOT.sub(fill, text)


# --- YAML as lines: an entry is a key and all that is under it, comments included ----------------------------------------


def _load(text: str) -> dict[str, Any]:
    return YAML(typ="safe").load(text)


@lru_cache
def _compose(text: str) -> Node:
    return YAML().compose(text)


def _entry(text: str, *keys: str | int) -> slice:
    """The lines of the entry at a path of keys (in a sequence: an index). Raises InputError if there is none."""
    key_node: Any = None
    node: Any = _compose(text)
    for key in keys:
        if isinstance(key, int):
            node = node.value[key]
            continue
        pairs = {pair[0].value: pair for pair in node.value} if isinstance(node, MappingNode) else {}
        if key not in pairs:
            raise InputError(f"there is no {'.'.join(map(str, keys))} to replace; start from the repository's params.yaml")
        key_node, node = pairs[key]
    column, start, end = key_node.start_mark.column, key_node.start_mark.line, node.end_mark.line
    if not isinstance(node, CollectionNode) or node.flow_style:
        end += 1  # a block's end mark is where the next thing starts, that of others on their last line
    lines = text.splitlines()
    while not lines[end - 1].strip() or (lines[end - 1].lstrip().startswith("#") and _indent(lines[end - 1]) <= column):
        end -= 1  # blank lines and comments before the next entry are that one's
    return slice(start, end)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _entry_text(text: str, *keys: str | int) -> str:
    return "".join(text.splitlines(keepends=True)[_entry(text, *keys)])


def _replace_entry(text: str, keys: tuple[str | int, ...], new: str) -> str:
    lines = text.splitlines(keepends=True)
    lines[_entry(text, *keys)] = [new]
    return "".join(lines)


def _with_comment(line: str, comment: str | None) -> str:
    return f"{line.ljust(COMMENT_COLUMN - 2)}  {comment}" if comment else line


# --- what follows from the corpora ----------------------------------------------------------------------------------------


def _add_corpora(text: str, preset: str) -> str:
    """Corpora of the same name are replaced, others come last."""
    for name in _load(preset)["corpora"]:
        new = _entry_text(preset, "corpora", name)
        if name in _load(text)["corpora"]:
            text = _replace_entry(text, ("corpora", name), new)
        else:
            text = _replace_entry(text, ("corpora",), _entry_text(text, "corpora") + new)
    return text


def _list_corpora(text: str, role: str, *keys: str) -> str:
    """The list at `keys` names the corpora of that role."""
    names = [name for name, corpus in _load(text)["corpora"].items() if corpus["role"] == role]
    indent, comment = "  " * (len(keys) - 1), re.search(r"#.*", _entry_text(text, *keys))
    head = _with_comment(f"{indent}{keys[-1]}:{'' if names else ' []'}", comment and comment[0])
    return _replace_entry(text, keys, "".join(f"{line}\n" for line in [head, *(f"{indent}- {name}" for name in names)]))


def _draw_curves(text: str, evaluated: list[str]) -> str:
    """The plots of dvc.yaml that are made of metrics/plots/CORPUS/*.csv have one curve of each evaluated corpus."""
    for number, plot in enumerate(_load(text).get("plots", [])):
        for title, settings in plot.items() if isinstance(plot, dict) else ():
            curves = settings.get("y") if isinstance(settings, dict) else None
            if not isinstance(curves, dict) or not all(map(CURVE.fullmatch, curves)):
                continue
            kinds = {CURVE.sub(r"\1", path): column for path, column in curves.items()}
            wanted = {f"metrics/plots/{name}/{file}": column for name in evaluated for file, column in kinds.items()}
            if wanted != curves:
                keys = ("plots", number, title, "y")
                head = _entry_text(text, *keys).splitlines()[0]
                lines = [f"{' ' * (_indent(head) + 2)}{path}: {column}" for path, column in wanted.items()]
                text = _replace_entry(text, keys, "\n".join([head, *lines]) + "\n")
    return text
