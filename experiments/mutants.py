"""Mutation testing: a module is changed in one place, and its tests must notice.

    nice -n 19 python -m experiments.mutants training/losses training/sampling --most 60
    nice -n 19 python -m experiments.mutants evaluation/trials --slow

Each mutant is a fork of a Python that has imported what others wrote, with the changed module in place of the real one. Changed
are comparisons, sums and products, `and` and `or`, conditions, numbers, True and False, min and max, and the sign. Messages of
errors, docstrings and annotations are not. Survivors are printed: each is a missing test, or changes nothing that can be seen.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = {  # of each module, those that are meant to notice
    "training/losses": ["tests/training/test_losses.py"],
    "training/sampling": ["tests/training/test_sampling.py"],
    "training/views": ["tests/training/test_views.py"],
    "params/augmentation": ["tests/params/test_params.py"],
    "evaluation/trials": ["tests/evaluation/test_trials.py"],
    "corpora/selection": ["tests/corpora/test_selection.py"],
    "corpora/features": ["tests/corpora/test_features.py"],
    "corpora/feature_store": ["tests/corpora/test_features.py"],
    "audio/log_mel": ["tests/model/test_whisper.py", "tests/corpora/test_features.py"],
    "inference/calibration": ["tests/inference/test_calibration.py"],
    "inference/gallery": ["tests/inference/test_gallery.py"],
}
SWAPS: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
}
OTHERS = {"min": "max", "max": "min", "any": "all", "all": "any", "argmin": "argmax", "argmax": "argmin"}
SECONDS = 30.0  # that the tests of a mutant may take beyond three times what those of the whole module take


def places(tree: ast.Module) -> list[ast.AST]:
    """The nodes that may be changed, in the order of the source."""

    def visit(node: ast.AST) -> Iterator[ast.AST]:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield child
                    yield from visit(child)

    return list(visit(tree))


def changes(node: ast.AST) -> list[Callable[[Any], None]]:
    """What may be done to a node of this kind, each as a function that does it to a copy."""

    def put(name: str, value: Any) -> Callable[[Any], None]:
        return lambda one: setattr(one, name, value)

    match node:
        case ast.Compare(ops=[only]):
            return [put("ops", [new()]) for new in SWAPS.get(type(only), [])]
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) | ast.BoolOp(op=operator):
            return [put("op", new()) for new in SWAPS.get(type(operator), [])]
        case ast.UnaryOp(op=ast.USub()):
            return [put("op", ast.UAdd())]
        case ast.If() | ast.IfExp() | ast.While():
            return [lambda one: setattr(one, "test", ast.UnaryOp(ast.Not(), one.test))]
        case ast.Constant(value=bool() as truth):
            return [put("value", not truth)]
        case ast.Constant(value=int() | float() as number):
            return [put("value", number + 1)]
        case ast.Name(id=name) if name in OTHERS:
            return [put("id", OTHERS[name])]
        case ast.Attribute(attr=name) if name in OTHERS:
            return [put("attr", OTHERS[name])]
    return []


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """The line, what was changed there, and the changed module, of every mutant."""
    tree = ast.parse(source)
    for number, node in enumerate(places(tree)):
        for change in changes(node):
            other = copy.deepcopy(tree)
            changed = places(other)[number]
            before = ast.unparse(changed).partition("\n")[0]
            change(changed)
            after = ast.unparse(ast.fix_missing_locations(changed)).partition("\n")[0]
            if before != after:
                yield getattr(node, "lineno", 0), f"{before}  ->  {after}", ast.fix_missing_locations(other)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports a module from a tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module):
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_source(self, fullname: str) -> str:
        return self.path.read_text(encoding="utf-8")

    def get_code(self, fullname: str) -> Any:
        return compile(self.tree, str(self.path), "exec")


def run_pytest(options: list[str]) -> int:
    """Run pytest without a word and without others' plugins, which cost more than most tests; how it ended."""
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *options]))


def passes(module: str, tree: ast.Module, options: list[str], limit_s: float) -> bool:
    """Whether the tests pass with that tree in the module's place; those that take longer do not."""
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        path = ROOT / f"src/speakerprint/{module}.py"
        sys.meta_path.insert(0, Finder(f"speakerprint.{module.replace('/', '.')}", path, tree))
        os._exit(run_pytest(options))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def import_what_is_needed(tests: list[str]) -> None:
    """Import what these tests import, but for what is ours: once, instead of once a mutant."""
    reader, writer = os.pipe()
    if not os.fork():
        run_pytest(["--collect-only", *tests])
        names = (name for name in sys.modules if name.split(".")[0] not in ("speakerprint", "tests", "conftest", "stages"))
        os.write(writer, "\n".join(names).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        for name in stream.read().splitlines():
            with suppress(Exception):
                import_module(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", choices=TESTS)
    parser.add_argument("--most", type=int, default=10**6, help="mutants of a module, drawn by chance if it has more")
    parser.add_argument("--slow", action="store_true", help="with the tests that `make check` leaves out")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    for module in arguments.modules:
        options = [*TESTS[module], *([] if arguments.slow else ["-m", "not slow"])]
        import_what_is_needed(TESTS[module])
        source = (ROOT / f"src/speakerprint/{module}.py").read_text(encoding="utf-8")
        found = list(mutants(source))
        drawn = sorted(random.Random(1).sample(range(len(found)), min(arguments.most, len(found))))
        began = time.monotonic()
        if not passes(module, ast.parse(source), options, 600):
            sys.exit(f"{module}: its tests fail as it is")
        limit_s = 3 * (time.monotonic() - began) + SECONDS
        survivors = 0
        for line, what, tree in (found[number] for number in drawn):
            if passes(module, tree, options, limit_s):
                survivors += 1
                print(f"  {module}.py:{line}: {what}", flush=True)
        killed = len(drawn) - survivors
        rate = f"{killed} of {len(drawn)} mutants killed ({killed / len(drawn):.0%})"
        print(f"{module}: {rate}, of {len(found)} that there are", flush=True)


if __name__ == "__main__":
    main()
