"""Packages stand on floors: which may import which is in pyproject.toml, and import-linter holds it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

PROJECT = Path(__file__).parents[2]


def test_no_package_imports_from_a_floor_above_its_own(capsys):
    status = lint_imports(str(PROJECT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_packages_are_empty_but_for_the_public_names_the_command_and_the_kinds_of_source():
    package = PROJECT / "src/speakerprint"
    written = {path.relative_to(package).as_posix() for path in package.rglob("__init__.py") if path.read_text(encoding="utf-8")}
    assert written == {"__init__.py", "cli/__init__.py", "corpora/sources/__init__.py"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "upwards", "said"),
    [
        ("audio/decode.py", "speakerprint.corpora.shards", "speakerprint.audio is not allowed to import speakerprint.corpora"),
        ("inference/clustering.py", "zarr", "speakerprint.inference is not allowed to import zarr"),
    ],
)
def test_an_import_from_above_is_found(tmp_path, module, upwards, said):
    shutil.copytree(
        PROJECT / "src/speakerprint", tmp_path / "speakerprint", ignore=shutil.ignore_patterns("models", "__pycache__")
    )
    with (tmp_path / "speakerprint" / module).open("a", encoding="utf-8") as file:
        file.write(f"\nimport {upwards}\n")
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    found = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert found.returncode == 1 and said in found.stdout
