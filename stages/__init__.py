"""One thin script per DVC stage: read params, call one module, write outs.

    python -m stages.filter demo_train

Stages run the code of the checkout they stand in (a queued DVC experiment has its own copy), whatever is installed.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from speakerprint import files
from speakerprint.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage


def run(stage: Callable[..., None]) -> None:
    """Run a stage with the command line's arguments; what the user can mend ends in a message instead of a traceback.

    DVC removes a stage's outputs before it runs it. Where it then fails or is interrupted, they are put back.
    """
    try:
        stage(*sys.argv[1:])
    except BaseException as error:
        put_back_outputs()
        if (message := _message(error)) is None:
            raise
        sys.exit(message)


def _message(error: BaseException) -> str | None:
    """What the user is told; None where the error itself says more."""
    if isinstance(error, files.DiskFull):
        return f"error: {error} (`dvc gc -w` drops cached results that the workspace does not use)"
    if isinstance(error, InputError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"error: no space left on the disk while writing {error.filename or Path.cwd()}; free some "
            "(`dvc gc -w` drops cached results that the workspace does not use) and run `dvc repro` again"
        )
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; `dvc repro` goes on from the last whole shard (training: from its last checkpoint)"
    return None


def put_back_outputs() -> None:
    """Bring back from DVC's cache what dvc.lock knows of the outputs of the stage that DVC runs, and say so.

    Of several processes that train together, the first does it. What is not in the cache is left out.
    """
    name = os.environ.get("DVC_STAGE")
    if name is None or os.environ.get("RANK", "0") != "0":
        return
    from dvc.exceptions import DvcException  # a second to import
    from dvc.repo import Repo

    found = []
    with Repo() as repo:
        for out in next(iter(repo.stage.collect(name))).outs:
            try:
                if out.hash_info and out.use_cache:
                    out.checkout(force=True)
                elif out.hash_info:  # git's: a file of its own, which a user may edit, and no link
                    shutil.copyfile(out.cache.oid_to_path(out.hash_info.value), fresh(out.fs_path))
                else:
                    continue
            except (DvcException, OSError):
                continue
            found.append(out.def_path)
    if found:
        print(f"{', '.join(found)}: put back as before this run", file=sys.stderr)


def still_to_come(stage: str) -> list[str]:
    """The corpora for which DVC will run a stage of this name after the one that it runs now; none for a stage run by hand."""
    name = os.environ.get("DVC_STAGE")
    if name is None:
        return []
    from dvc.repo import Repo  # a second to import

    with Repo() as repo:
        others = [other for other in repo.stage.collect(stage) if other.addressing != name]
        return [other.name.partition("@")[2] for other in others if _will_run(repo, other)]


def _will_run(repo: "Repo", stage: "Stage") -> bool:
    """Whether DVC, once it comes to a stage, runs its command: what dvc.lock or the run cache has is brought back instead."""
    from dvc.dependency.base import DependencyDoesNotExistError
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    if not stage.changed_stage() and stage.deps_cached():
        return not stage.outs_cached()
    try:
        stage.save_deps()
        for out in stage.outs:  # what dvc.lock knows of them was made from other dependencies
            out.hash_info = HashInfo()
        repo.stage_cache.restore(stage, dry=True)
    except (RunCacheNotFoundError, DependencyDoesNotExistError):
        return True
    return False


def fresh(path: str | Path) -> Path:
    """The path with nothing there but its folder: what is written there is not written into DVC's cache through a link."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_text(text: str, path: str | Path) -> None:
    """Write a file anew, whole; a link into DVC's cache that is there is replaced, not followed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(text, path)


def write_json(tree: dict, path: str | Path) -> None:
    """Write a report or metrics file, a line per number, so that git shows what changed."""
    write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", path)
