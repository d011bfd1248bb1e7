import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from speakerprint.cli import EXTRAS, app

CLI = Path(__file__).parents[2] / "src/speakerprint/cli"


OPTIONAL = tomllib.loads((CLI.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def needed(extra: str) -> set[str]:
    """The packages that an extra brings, those of extras within it too, each as it is imported."""
    found = set()
    for requirement in OPTIONAL[extra]:
        name, inner = re.fullmatch(r"([\w.-]+?)(?:\[(.+)\])?(?:[<>=].*)?", requirement).groups()
        within = inner.split(",") if name == "speakerprint" else []
        imported = {"ruamel.yaml": "ruamel", "scikit-learn": "sklearn", "faiss-cpu": "faiss"}.get(name, name.replace("-", "_"))
        found |= {imported}.union(*map(needed, within))
    return found


@pytest.mark.slow
def test_whatever_is_not_installed_is_named_with_an_extra_that_brings_it():
    core = {
        "av",
        "fastcluster",
        "filelock",
        "numpy",
        "onnxruntime",
        "pydantic",
        "rich",
        "silero_vad",
        "soundfile",
        "soxr",
        "tqdm",
    }
    # done without; imported after torch; named by corpora/shards.py itself; a part of uvicorn's
    apart = {"faiss", "transformers", "dask", "distributed", "ray", "h11"}
    imported = set()
    for path in CLI.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    optional = imported - core - apart - sys.stdlib_module_names - {"speakerprint", "typer", "starlette"}
    assert optional <= EXTRAS.keys()
    assert {module: extra for module, extra in EXTRAS.items() if module not in needed(extra)} == {}


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from speakerprint.cli import main
sys.argv = ["speakerprint", *sys.argv[2:]]
main()
"""


@pytest.mark.slow
def test_evaluate_needs_nothing_of_the_pipeline(tmp_path):
    for speaker, name in (("ann", "ann-1"), ("ann", "ann-2"), ("bob", "bob")):
        (tmp_path / speaker).mkdir(exist_ok=True)
        shutil.copy(CLI.parent / f"samples/{name}.ogg", tmp_path / speaker)
    absent = {module for module, extra in EXTRAS.items() if extra not in ("measure", "pages")} - {"ruamel"} | {"transformers"}
    command = [sys.executable, "-c", WITHOUT, ",".join(absent), "evaluate", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recordings"] == 3


def test_python_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "speakerprint", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("speakerprint ")


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_no_command_has_the_name_of_what_it_calls(path):
    module = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
    imports = [node for node in ast.walk(module) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not functions & {alias.asname or alias.name for node in imports for alias in node.names}


@pytest.mark.parametrize("command", [[], ["use"], ["metrics"], ["embed"], ["verify"], ["calibrate"], ["cluster"], ["evaluate"]])
def test_every_command_has_help(speakerprint, capsys, command):
    speakerprint(*command, "--help")
    assert "Usage: speakerprint" in capsys.readouterr().out


def test_h_is_help_and_the_version_is_said(speakerprint, capsys):
    for arguments in (["-h"], ["verify", "-h"]):
        speakerprint(*arguments)
        assert "Usage: speakerprint" in capsys.readouterr().out
    speakerprint("--version")
    assert re.fullmatch(r"speakerprint \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.slow
def test_a_shell_completes_commands_and_options(tmp_path):
    def completed(typed: str) -> list[str]:
        asked = {"_SPEAKERPRINT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
        command = [sys.executable, "-c", "from speakerprint.cli import main; main()"]
        environment = os.environ | {"PYTHONPATH": str(CLI.parents[1])} | asked
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path).stdout.split()

    assert completed("speakerprint ver") == ["verify"]
    assert completed("speakerprint verify --thr") == ["--threshold"]


def test_one_thing_has_one_option_in_every_command(speakerprint):
    from typer.main import get_command

    named: dict[str, set[str]] = {}
    for command in get_command(app).commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                named.setdefault(parameter.name, set()).add(parameter.opts[0])
    assert all(len(spellings) == 1 for spellings in named.values()), named


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "out.npz"), "error: out.npz: No space left on device; check the path,"),
        (OSError(28, "No space left on device"), "error: No space left on device; check the path,"),
        ("first.wav\nby \udcff.mp3\nlast.wav\n", r"error: 'by \udcff.mp3' cannot be written in utf-8; rename the file"),
        (ZeroDivisionError("by a fault of ours"), "ZeroDivisionError: by a fault of ours"),
    ],
)
def test_no_error_has_the_status_of_an_answer(speakerprint, capsys, monkeypatch, error, message):
    def fail(self, *arguments, **options):
        if isinstance(error, str):
            error.encode()
        raise error

    monkeypatch.setattr(speakerprint.embedder, "verify", fail)
    with pytest.raises(SystemExit) as ended:
        speakerprint("verify", "a.wav", "b.wav")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert ("Traceback" in said) == isinstance(error, ZeroDivisionError)
