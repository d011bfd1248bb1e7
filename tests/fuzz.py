"""Damage that is led by what it makes our code do: atheris on what reads the files of tests/test_damage.py.

    python -m tests.fuzz "params" -max_total_time=60

The options are libFuzzer's. What breaks is written to `crash-…` in the current folder. As a case of FOUND in tests/test_damage.py
it stays mended. `tests/test_fuzz.py` runs it on each kind of file that is worth it.
"""

import json
import random
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["speakerprint", "ruamel"]):
    from speakerprint.errors import InputError
    from tests.test_damage import FOUND, KINDS, as_text

SECONDS = 20  # a case may take
MEMORY_MIB = 3000  # of the process, torch and ONNX Runtime included
LONGEST = 100_000  # bytes of a case
SMALL = {  # instead of the whole file: so that cases are many
    "params": b"resample: &r {engine: soxr, min_duration_s: 1e-1, seen: 2001-12-14t21:59:43.10-05:00, of: !!binary aGk=}\n"
    b"? [a, 0x1F, 1_000, 0o7, 0b1, 190:20:30, .inf, ~]\n: *r\nmore:\n  <<: *r\n  - !!set {x, y}\n  - |\n    text\n",
}
STRANGE: list[Any] = [
    None, True, 0, -1, 7, 0.5, 1e308, float("nan"), float("inf"), 10**30, "", "\0", "0.3", "../x", "/dev/zero", [], [[]], {},
]  # fmt: skip


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Each container in a tree of JSON with each of its keys."""
    if not isinstance(tree, dict | list):
        return []
    here = [(tree, key) for key in (tree if isinstance(tree, dict) else range(len(tree)))]
    return here + [place for _, key in here for place in places(tree[key])]


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """JSON with values that it should not have, or without some; what is none, and every fourth case, as libFuzzer does it."""
    draw = random.Random(seed)
    try:
        tree = json.loads(data)
        found = places(tree)
    except (ValueError, RecursionError):
        found = []
    if not found or not draw.randrange(4):
        return bytes(atheris.Mutate(data, max_size))
    container, key = draw.choice(found)
    if draw.randrange(4):
        container[key] = draw.choice([*STRANGE, container[key], [container[key]], str(container[key])])
    else:
        del container[key]
    return json.dumps(tree).encode()[:max_size]


def main() -> None:
    name, *options = sys.argv[1:]
    kind, folder = KINDS[name], Path(tempfile.mkdtemp())
    path = kind.make(folder)
    whole = path.read_bytes()
    answer = as_text(kind.read(path))
    seeds = Path(tempfile.mkdtemp())
    small = SMALL.get(name, whole)
    for number, seed in enumerate([small, *(found.content(whole) for found in FOUND if found.kind == name)]):
        (seeds / str(number)).write_bytes(seed)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            with redirect_stdout(StringIO()):
                same = as_text(kind.read(path)) == answer
            assert same or not kind.checked, "another answer"
        except InputError as error:
            assert path.name in str(error) or str(folder) in str(error), f"{error} names no file"

    limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={min(LONGEST, 4 * len(small) + 100)}"]
    of_json = {"custom_mutator": mutated} if path.suffix == ".json" else {}
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", *options, str(seeds)], read, **of_json)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
