"""What every section of params.yaml is made of, and how one is read: frozen, typed, and with no unknown key.

Every key, its unit and its meaning are commented in ``params.yaml`` itself.
"""

from copy import deepcopy
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speakerprint.errors import InputError

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NAME = "^[A-Za-z0-9_-]+$"  # of a corpus or a report: it becomes a folder's name
Name = Annotated[str, Field(pattern=NAME)]
MAX_VALUES = 100_000
PARAMS_PATH = Path("params.yaml")  # in the project's root, where stages run


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def read_tree(path: str | Path = PARAMS_PATH) -> dict[str, Any]:
    """The sections of a params.yaml, unchecked. Raises InputError where it is absent, no YAML, or no mapping of sections."""
    path = Path(path)
    try:
        tree = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run stages from the project's root") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the name and its permissions") from None
    except Exception as error:  # ruamel's own, and whatever its constructors meet: KeyError, OverflowError, RecursionError
        said = str(error) if isinstance(error, YAMLError | ValueError) else repr(error)
        raise InputError(f"{path} is not valid YAML: {said}") from None
    _refuse_too_many_values(tree, path)
    if not isinstance(tree, dict):
        raise InputError(f"{path} is empty or not a mapping of sections; start from the repository's params.yaml")
    return deepcopy(tree)


@lru_cache(maxsize=4)  # a stage reads the same file once a section, and each time would take 15 ms
def _parsed(text: str) -> Any:
    return YAML(typ="safe").load(text)


def _refuse_too_many_values(tree: Any, path: Path) -> None:
    """Raise InputError where aliases (`*name`) multiply a small file into more values than anybody means."""
    waiting, values = [tree], 0
    while waiting:
        values += 1
        node = waiting.pop()
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        if values + len(waiting) > MAX_VALUES:
            raise InputError(f"{path} holds more than {MAX_VALUES:,} values, its aliases written out; write it without them")


def check(kind: Any, tree: Any, path: str | Path = PARAMS_PATH, within: tuple[str, ...] = ()) -> Any:
    """A parsed YAML tree as ``kind``. Raises InputError naming every offending key, under the keys ``within``."""
    try:
        return TypeAdapter(kind).validate_python(tree, strict=True)
    except ValidationError as error:
        raise InputError(_describe(error, path, within)) from None


def read_section(kind: Any, *keys: str) -> Any:
    """What stands in ``params.yaml`` at the path of keys, as ``kind``: ``read_section(Filter, "corpora", corpus, "filter")``.

    Raises InputError naming every offending key, or the first of ``keys`` that is not there with those that are.
    """
    tree: Any = read_tree()
    for depth, key in enumerate(keys):
        if not isinstance(tree, dict) or key not in tree:
            known = ", ".join(map(str, tree)) if isinstance(tree, dict) else "nothing"
            where = f"{PARAMS_PATH} has no {'.'.join(keys[: depth + 1])}"
            near = get_close_matches(key, map(str, tree), n=1) if isinstance(tree, dict) else []
            meant = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"{where}; {meant}known{' under ' + '.'.join(keys[:depth]) if depth else ''}: {known}")
        tree = tree[key]
    return check(kind, tree, within=keys)


def _describe(error: ValidationError, path: str | Path, within: tuple[str, ...]) -> str:
    lines = [f"{path} is not valid:"]
    for problem in error.errors():
        # pydantic puts the discriminator's value into the location of a source; the user's key path has none
        parts = [*within, *(str(part) for part in problem["loc"])]
        key = ".".join(part for i, part in enumerate(parts) if not (i and parts[i - 1] == "source" and i < len(parts) - 1))
        found: Any = problem.get("input")
        if problem["type"] == "extra_forbidden":
            text = f"unknown key; {_nearest(parts[-1])}"
        elif problem["type"] == "missing":
            text = "missing key; add it (params.yaml in the repository shows every key)"
        else:
            text = problem["msg"].removeprefix("Value error, ")
            if not isinstance(found, dict | BaseModel):
                text += f", found {found!r}"
        lines.append(f"  {key or 'the file'}: {text}")
    return "\n".join(lines)


def _nearest(key: str) -> str:
    """What a key that is none may have meant, among those of all sections."""
    kinds, known = [Section], set[str]()
    while kinds:
        kind = kinds.pop()
        known |= kind.model_fields.keys()
        kinds += kind.__subclasses__()
    near = get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else "check its spelling"
