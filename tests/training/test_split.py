"""Whether there are speakers enough, told from counts."""

import numpy as np
import pytest

from speakerprint.errors import InputError
from speakerprint.training.split import n_held_out, refuse_too_few_speakers


def test_the_published_example_is_refused_with_its_counts_keys_and_remedies():
    with pytest.raises(InputError) as error:
        refuse_too_few_speakers({"mine": np.full(20, 10)}, batch_speakers=16, speeds=[1.0], validation_speakers=0.3)
    assert str(error.value) == (
        "too few speakers to train on: mine has 20; train.validation_speakers 0.3 holds out 6 of 20, and 14 are left for batches "
        "of sampling.speakers 16; lower sampling.speakers or train.validation_speakers, loosen the corpora's filters, or add a "
        "corpus"
    )


def test_as_many_speakers_as_a_batch_holds_are_enough():
    refuse_too_few_speakers({"a": np.full(10, 2), "b": np.full(10, 2)}, 14, [1.0], 0.3)


def test_a_speaker_at_another_speed_is_another_speaker():
    refuse_too_few_speakers({"a": np.full(20, 2)}, 28, [1.0, 0.9], 0.3)
    with pytest.raises(InputError, match="28 at 2 speeds are left"):
        refuse_too_few_speakers({"a": np.full(20, 2)}, 29, [1.0, 0.9], 0.3)


def test_speakers_of_one_recording_each_have_nothing_to_compare():
    with pytest.raises(InputError, match="no speaker has two recordings"):
        refuse_too_few_speakers({"a": np.ones(20)}, 4, [1.0], 0.0)


@pytest.mark.parametrize(("n_speakers", "fraction", "expected"), [(20, 0.3, 6), (20, 0.0, 0), (20, 0.01, 2), (20, 1.0, 20)])
def test_at_least_two_are_held_out_or_none(n_speakers, fraction, expected):
    assert n_held_out(n_speakers, fraction) == expected
