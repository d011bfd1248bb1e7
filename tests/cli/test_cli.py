import ast
from pathlib import Path

import pytest

CLI = Path(__file__).parents[2] / "src/speakerprint/cli"


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
    def fail(self, *arguments):
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
