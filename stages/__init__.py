"""One thin script per DVC stage: read params, call one module, write outs.

    python -m stages.filter demo_train

Stages run the code of the checkout they stand in (a queued DVC experiment has its own copy), whatever is installed.
"""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from speakerprint.errors import InputError


def run(stage: Callable[..., None]) -> None:
    """Run a stage with the command line's arguments; what the user can mend ends in a message instead of a traceback."""
    try:
        stage(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(
            f"error: no space left on the disk while writing {error.filename or Path.cwd()}; free some "
            "(`dvc gc -w` drops cached results that the workspace does not use) and run `dvc repro` again"
        )
    except KeyboardInterrupt:
        sys.exit("interrupted; `dvc repro` goes on from the last whole shard (training: from its last checkpoint)")


def write_json(tree: dict, path: str | Path) -> None:
    """Write a report or metrics file, a line per number, so that git shows what changed."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
