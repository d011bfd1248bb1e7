"""experiments/make_conversations.py: the sounds that it is given."""

import pytest

from experiments.make_conversations import TUNING_NOISES, read_sounds
from speakerprint.errors import InputError


def test_a_folder_that_lacks_a_class_of_sounds_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / TUNING_NOISES[0]).mkdir()
    (tmp_path / TUNING_NOISES[0] / "1.ogg").touch()
    with pytest.raises(InputError, match=rf"no {TUNING_NOISES[1]}/\*\.ogg; expected ESC-10's folders {TUNING_NOISES[0]}, "):
        read_sounds(tmp_path, TUNING_NOISES)
