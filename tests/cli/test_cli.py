import pytest


@pytest.mark.parametrize("command", [[], ["use"], ["metrics"], ["embed"], ["verify"], ["calibrate"], ["cluster"], ["evaluate"]])
def test_every_command_has_help(speakerprint, capsys, command):
    speakerprint(*command, "--help")
    assert "Usage: speakerprint" in capsys.readouterr().out
