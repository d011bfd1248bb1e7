"""Validation, and which step it chooses."""

import numpy as np
import pytest
import torch

from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.training.checkpoint import Progress
from speakerprint.training.validation import EMBEDDED_AT_ONCE, embed_crops, one_trial
from tests.training.runs import tiny_recipe


@pytest.mark.slow
def test_crops_are_embedded_with_those_of_about_their_length_and_returned_in_order():
    torch.manual_seed(0)
    model, lengths = SpeakerModel(tiny_recipe().model), []
    real = model.embed_frames
    model.embed_frames = lambda clips: lengths.append([len(clip) for clip in clips]) or real(clips)
    rng = np.random.default_rng(0)
    crops = [rng.normal(size=(n, 80)).astype(np.float32) for n in rng.permutation(np.repeat([10, 20], EMBEDDED_AT_ONCE))]
    rows = embed_crops(model, iter(crops))
    assert [set(batch) for batch in lengths] == [{10}, {20}]
    for i in (0, 1, 77):
        np.testing.assert_allclose(rows[i], real([crops[i]])[0], atol=1e-5)


def judged(*eers: float, resolution: float = 0.01) -> Progress:
    """Progress after validations with these EERs, a step apart."""
    progress = Progress()
    for progress.step, eer in enumerate(eers):
        progress.judge(eer, torch.nn.Linear(1, 1), resolution)
    return progress


@pytest.mark.parametrize(
    ("eers", "kept"),
    [((0.0, 0.0, 0.0), 2), ((0.0, 0.005, 0.02), 1), ((0.2, 0.195, 0.204), 2), ((0.2, 0.1, 0.109, 0.118), 2), ((0.1, 0.2), 0)],
    ids=["saturated", "less than a trial worse", "better and worse by little", "no creeping away from the best", "worse"],
)
def test_of_steps_that_validation_cannot_tell_apart_the_last_is_kept(eers, kept):
    assert judged(*eers).kept_step == kept


def test_it_is_said_when_the_start_is_kept_after_all():
    assert "the start, for every later step" in judged(0.1, 0.2, 0.3).verdict()
    assert judged(0.1, 0.2, 0.05).verdict() == "kept: step 2, whose validation EER is 0.0500"


def test_an_eer_cannot_tell_less_than_one_target_trial():
    assert one_trial(np.array(["a", "a", "a", "b", "b", "c"])) == 1 / 4
