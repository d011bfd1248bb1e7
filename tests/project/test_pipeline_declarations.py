"""dvc.yaml says of every stage which code and which params it reads; here the code is asked."""

import ast
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode

from speakerprint.params.whole import Params

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "src/speakerprint"
DVC = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = {name: stage.get("do", stage) for name, stage in DVC["stages"].items()}
COMMENTED = ["params.yaml", "src/speakerprint/presets/corpus.yaml"]  # defaults.yaml is in params.yaml (tests/params/test_presets)


def parse(path: Path) -> ast.Module:
    """A module without what only type checkers read."""

    class Running(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.If | list[ast.stmt]:
            self.generic_visit(node)
            return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else node

    return Running().visit(ast.parse(path.read_text(encoding="utf-8")))


def module_file(name: str) -> Path | None:
    path = PACKAGE.parent / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported_modules(path: Path) -> set[str]:
    """Names of the speakerprint modules that a module imports, anywhere in it.

    `from package import name` counts the package's own __init__ only where the name is no module; that importing
    `package.module` also runs package/__init__.py does not count: it decides nothing about what package.module does.
    """
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not followed here"
            package = node.module or ""
            names = {f"{package}.{alias.name}" for alias in node.names}
            found |= {name if module_file(name) else package for name in names}
    return {name for name in found if name.split(".")[0] == "speakerprint"}


def source_closure(path: Path) -> set[str]:
    """Files of the package that a script reads, directly or through other modules, relative to the project."""
    files: set[Path] = set()
    waiting = [path]
    while waiting:
        for name in imported_modules(waiting.pop()):
            file = module_file(name)
            assert file, f"{name} is imported, but there is no such module"
            if file not in files:
                files.add(file)
                waiting.append(file)
    files.discard(PACKAGE / "__init__.py")
    return {str(file.relative_to(PROJECT)) for file in files}


def params_read(path: Path) -> set[str]:
    """Dotted keys that a stage script reads with `read_section`; those of its corpus as corpora.${key}."""
    read = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "read_section":
            keys = [str(key.value) if isinstance(key, ast.Constant) else "${key}" for key in node.args[1:]]
            read.add(".".join(keys))
    return read


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_source_files_it_imports(stage):
    script = f"stages/{stage}.py"
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == {script, "stages/__init__.py"} | source_closure(PROJECT / "stages/__init__.py") | source_closure(
        PROJECT / script
    )


def expanded(keys: set[str]) -> set[str]:
    """Whole sections as their keys."""
    sections = (keys & Params.model_fields.keys()) - {"train_corpora", "unlabelled_corpora", "noise_corpora"}
    fields: dict[str, Any] = {name: Params.model_fields[name].annotation for name in sections}
    return (keys - fields.keys()) | {f"{name}.{field}" for name in fields for field in fields[name].model_fields}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_params_it_reads(stage):
    # the list that a stage is repeated over decides which stages there are, and no result, unless of its own entry
    repeated_over = DVC["stages"][stage].get("foreach", "").removeprefix("${").removesuffix("}")
    read = expanded(params_read(PROJECT / f"stages/{stage}.py")) - {repeated_over}
    assert expanded(set(STAGES[stage].get("params", []))) - {f"{repeated_over}.${{key}}"} == read


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_own_script(stage):
    assert STAGES[stage]["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]


def test_every_output_is_cached_a_metric_or_a_plot():
    """DVC keeps no run cache for a stage with another (`no_cache_outs` in its Stage.run): undoing a change would rerun it."""
    of_kind = {kind: [out for stage in STAGES.values() for out in stage.get(kind, [])] for kind in ("outs", "metrics", "plots")}
    assert [out for out in of_kind["outs"] if not isinstance(out, str)] == []  # a path alone: cached, and not persistent
    assert all(settings == {"cache": False} for out in of_kind["metrics"] for settings in out.values())  # git keeps them


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_stands_on_the_check_of_params_and_says_what_it_is_for(stage):
    assert STAGES[stage]["desc"]
    if stage != "check":
        assert {"data/checked", "data/planned"} & set(STAGES[stage]["deps"])


def test_the_trained_and_the_shipped_model_are_artifacts():
    paths = {artifact["path"] for artifact in DVC["artifacts"].values()}
    assert paths == {"models/speakerprint", "src/speakerprint/models/speakerprint-base"}
    assert "models/speakerprint" in STAGES["train"]["outs"]
    assert (PACKAGE / "models/speakerprint-base/model.safetensors").is_file()


def test_every_script_is_a_stage():
    assert {path.stem for path in (PROJECT / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


def test_git_ignores_the_outputs_that_dvc_keeps_and_no_others(tmp_path):
    kept: set[str] = set()
    in_git: set[str] = set()
    for stage in STAGES.values():
        for out in (out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])):
            path, settings = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            path = path.replace("${item.role}", "train").replace("${key}", "corpus").replace("${item}", "corpus")
            (kept if settings.get("cache", True) else in_git).add(path)
    shutil.copy(PROJECT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    checked = subprocess.run(["git", "check-ignore", "--no-index", *kept, *in_git], cwd=tmp_path, capture_output=True, text=True)
    assert kept
    assert in_git
    assert set(checked.stdout.splitlines()) == kept


def uncommented(node: MappingNode, lines: list[str], path: str = "") -> list[str]:
    """Keys with a value of their own and no comment on their line; of corpora that are alike, the first is asked."""
    missing = []
    for key, value in node.value[:1] if path == "corpora." else node.value:
        name = path + key.value
        if isinstance(value, MappingNode) and not value.flow_style:
            missing += uncommented(value, lines, f"{name}.")
        elif " # " not in lines[key.start_mark.line]:
            missing.append(name)
    return missing


@pytest.mark.parametrize("name", COMMENTED)
def test_every_key_has_a_comment(name):
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert uncommented(YAML().compose(text), text.splitlines()) == []


def test_setting_a_parameter_as_dvc_does_changes_its_line_and_no_other(tmp_path):
    before = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(before, encoding="utf-8")
    apply_overrides(path, ["loss.ntxent_weight=0.55"])
    lines = zip(before.splitlines(), path.read_text(encoding="utf-8").splitlines(), strict=True)
    changed = [new.split("#")[0].split() for old, new in lines if old != new]
    assert changed == [["ntxent_weight:", "0.55"]]
