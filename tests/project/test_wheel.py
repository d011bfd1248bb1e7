"""What `pip install speakerprint` gives in an empty environment and from another folder, with the oldest versions it allows.

All other tests run with those that requirements.txt pins. The wheel is built from the sdist, so what is missing in one is missing
in the other.
"""

import json
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LARGEST_WHEEL, LARGEST_INSTALLED = 24e6, 385e6  # bytes; the second without pip itself
NOT_NEEDED = ["torch", "transformers", "pandas", "pyarrow", "dvc", "datasets", "matplotlib", "faiss", "sklearn", "scipy", "zarr"]
TYPED = """
import speakerprint
from speakerprint import InputError, Verification, Window

embedder = speakerprint.load()
found: Verification = embedder.verify("a.wav", "b.wav")
reveal_type(found.score)
wrong: int = found.threshold
"""
USED = """
import sys, time
started = time.perf_counter()
import speakerprint
took_s = time.perf_counter() - started
embeddings = speakerprint.load().embed_files(sys.argv[1:])
public = ["Calibration", "Diarization", "Event", "Gallery", "InputError", "Listener", "SpeakerEmbedder", "Turn"]
public += ["Verification", "Window", "calibrate", "cluster", "diarize", "load"]
assert set(public) <= set(dir(speakerprint)), dir(speakerprint)
assert issubclass(speakerprint.InputError, Exception)
print(took_s, *embeddings.shape, "torch" in sys.modules, speakerprint.__version__)
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def untracked() -> str:
    return run("git", "status", "--porcelain", cwd=ROOT)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    folder, before = tmp_path_factory.mktemp("dist"), untracked()
    run(sys.executable, "-m", "build", "--outdir", folder, ".", cwd=ROOT)
    assert untracked() == before
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The programs of an environment that has the package alone, its dependencies at the low ends of their ranges."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder)
    (package,) = built.glob("*.whl")
    lowest = [re.sub(r">=([^,]+).*", r"==\1", requirement) for requirement in PROJECT["dependencies"]]
    assert all("==" in requirement for requirement in lowest), lowest
    (folder / "lowest.txt").write_text("\n".join(lowest), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q", "-c", "lowest.txt"]
    run(*pip, package, cwd=folder)
    return folder / "bin"


def test_the_wheel_is_small(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size <= LARGEST_WHEEL


def test_the_package_works_from_another_folder_without_what_training_needs(installed, tmp_path):
    for name in NOT_NEEDED:
        run(installed / "python", "-c", f"import {name}", cwd=tmp_path, status=1)
    sizes = [path.stat().st_size for path in installed.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(sizes) <= LARGEST_INSTALLED

    run(installed / "speakerprint", "samples", cwd=tmp_path)
    ann, again, bob = (f"voices/{name}.ogg" for name in ("ann-1", "ann-2", "bob"))
    assert "same speaker" in run(installed / "speakerprint", "verify", ann, again, cwd=tmp_path)
    assert "different speakers" in run(installed / "speakerprint", "verify", ann, bob, cwd=tmp_path, status=1)
    run(installed / "speakerprint", "enrol", "ann", ann, cwd=tmp_path)
    assert "ann" in run(installed / "speakerprint", "identify", again, cwd=tmp_path)
    run(installed / "speakerprint", "identify", bob, cwd=tmp_path, status=1)
    run(installed / "speakerprint", "embed", ann, bob, "--output", "both.csv", cwd=tmp_path)
    clusters = json.loads(run(installed / "speakerprint", "cluster", ann, again, bob, "--json", cwd=tmp_path))
    assert [row["cluster"] for row in clusters] == [0, 0, 1]
    assert "speakerprint-base" in run(installed / "speakerprint", "info", "--json", cwd=tmp_path)

    took_s, *facts = run(installed / "python", "-c", USED, ann, bob, cwd=tmp_path).split()
    assert float(took_s) < 0.1 and facts == ["2", "128", "False", PROJECT["version"]]


def test_what_is_missing_is_named_with_the_extra_that_brings_it(installed, tmp_path):
    needed = {"serve": "pages", "calibrate .": "measure", "evaluate .": "measure", "use corpora/demo": "pipeline"}
    for command, extra in needed.items():
        done = subprocess.run([installed / "speakerprint", *command.split()], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and f"pip install 'speakerprint[{extra}]'" in done.stderr


def test_type_checkers_see_its_types(installed, tmp_path):
    (tmp_path / "use.py").write_text(TYPED)
    python = ["--python-executable", installed / "python"]
    printed = run(sys.executable, "-m", "mypy", *python, "--cache-dir", tmp_path / "cache", "use.py", cwd=tmp_path, status=1)
    assert 'Revealed type is "float"' in printed and "Incompatible types in assignment" in printed
