"""The JSON files that stages leave in metrics/, read back for what is made of them.

`evaluate` leaves two of a corpus: metrics/CORPUS.json has the dozen figures that people compare, CORPUS.details.json the rest.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakerprint.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

THRESHOLDS = {"0.01": "threshold_at_1pct_false_accepts", "0.001": "threshold_at_0_1pct_false_accepts"}


def read_metrics(path: str | Path, stage: str) -> dict[str, Any]:
    """What a stage, such as ``filter@demo_dev``, left in a JSON file.

    Raises InputError, which says how to make it again, if it is missing or no JSON object (git keeps these files, and a merge can
    leave its marks in them).
    """
    path = Path(path)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `dvc repro {stage}` to make it") from None
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise InputError(f"{path} is not JSON ({error}); run `dvc repro {stage}` to make it again") from None
    if not isinstance(tree, dict) or not tree:
        raise InputError(f"{path} is empty or no JSON object; run `dvc repro {stage}` to make it again")
    return tree


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """All figures of a corpus: of its metrics file, and of the details beside it. Raises InputError as `read_metrics` does."""
    path = Path(path)
    stage = f"evaluate@{path.stem}"
    return read_metrics(path, stage) | read_metrics(path.with_suffix(".details.json"), stage)


def thresholds_of(path: str | Path) -> dict[str, float]:
    """The thresholds that `evaluate` found on a corpus, by false-accept rate, of metrics/CORPUS.json and the details beside it.

    Raises InputError as `read_metrics` does, and for a file of anything else.
    """
    figures = read_evaluation(path)
    if missing := [key for key in THRESHOLDS.values() if key not in figures]:
        raise InputError(f"{path} has no {missing[0]}; name what `evaluate` writes: metrics/CORPUS.json")
    return {rate: figures[key] for rate, key in THRESHOLDS.items()}


def figures_of(corpora: Sequence[str], details: bool) -> dict[str, dict[str, Any]]:
    """What the metrics files of corpora hold, by corpus. Raises InputError as `read_metrics` does."""
    paths = {corpus: Path("metrics", f"{corpus}.json") for corpus in corpora}
    return {
        corpus: read_evaluation(path) if details else read_metrics(path, f"evaluate@{corpus}") for corpus, path in paths.items()
    }


def side_by_side(figures: dict[str, dict[str, Any]]) -> "pd.DataFrame":
    """What `figures_of` gives as a column for each corpus and a row a figure, in the order of the files; nested ones as ``a.b``.

    Lists, such as the speakers confused, are no figures and left out.
    """
    import pandas as pd

    columns = {}
    for corpus, of in figures.items():
        single = {name: figure for name, figure in of.items() if not isinstance(figure, list)}
        columns[corpus] = pd.json_normalize(single).astype(object).iloc[0]
    return pd.DataFrame(columns).reindex(next(iter(columns.values())).index)
