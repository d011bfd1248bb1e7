"""No function is longer than a screen."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCREEN = 60  # lines, decorators and docstring included


def test_every_function_fits_on_a_screen():
    too_long = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if node.end_lineno is not None and node.end_lineno - start + 1 > SCREEN:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name}, {node.end_lineno - start + 1} lines")
    assert too_long == []
