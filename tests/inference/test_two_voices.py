"""Two people in one recording: parts of it that sound like two."""

import numpy as np
import pytest

from speakerprint.inference.two_voices import doubts, lowest_cosine, parts


def unit(*rows):
    return np.array(rows, np.float32) / np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)


@pytest.mark.parametrize(
    ("speech_s", "lengths"),
    [(1.9, []), (2.1, [70, 140, 105, 105, 140, 70]), (8.0, [100] * 8), (100.0, [400] * 8)],
)
def test_speech_is_split_at_three_places_or_cut_into_eight_parts_of_a_second_to_four(speech_s, lengths):
    assert [len(part) for part in parts(np.zeros((round(100 * speech_s), 80), np.float32))] == lengths


def test_halves_are_compared_as_they_are():
    assert lowest_cosine(unit([1, 0], [3, 4])) == pytest.approx(0.6)


def test_of_several_parts_the_two_groups_that_differ_most_are_compared_wherever_they_stand():
    ann, bob = [1, 0, 0], [0, 1, 0]
    assert lowest_cosine(unit(ann, bob, ann, bob)) == pytest.approx(0)
    assert lowest_cosine(unit(ann, ann, ann, ann, bob, bob)) == pytest.approx(0)
    # one part that is like no other is a cough: with any second part, its group is like the rest
    assert lowest_cosine(unit(ann, ann, ann, ann, bob)) == pytest.approx(np.sqrt(0.5))


def test_a_second_voice_may_begin_at_any_split():
    ann, bob = [1, 0], [0, 1]
    same = unit(ann, ann)
    for place in range(3):
        pairs = [same, same, same]
        pairs[place] = unit(ann, bob)
        assert doubts(np.concatenate(pairs), 4.0) == [
            "two voices: parts of it have a cosine of 0.00; cut out the speech of one person"
        ]
    assert doubts(np.concatenate([same, same, same]), 4.0) == []


def test_more_speech_makes_it_surer():
    parts_of_it = np.tile(unit([1, 0], [0.25, np.sqrt(1 - 0.25**2)]), (3, 1))
    assert doubts(parts_of_it, speech_s=3.0) == []
    assert doubts(parts_of_it, speech_s=4.0) == doubts(parts_of_it, speech_s=7.9) != []
    assert doubts(parts_of_it[:0], 0.0) == []


@pytest.mark.slow
def test_a_recording_of_two_people_is_doubted_and_of_one_is_not(embedder, clips, conversation):
    ann, bob = clips["ann-1"], clips["bob"]
    halves = np.concatenate([ann[: len(ann) // 2], bob[len(bob) // 2 :]])
    found = embedder.verify(ann, halves, sample_rate_hz=16_000)
    assert found.same_speaker is None and found.doubts[0].startswith("recording 2: two voices")
    assert embedder.embed_with_doubts(conversation, 16_000)[1][0].startswith("two voices")
    for alone in (ann, bob, np.concatenate([ann, clips["ann-2"]])):
        assert embedder.embed_with_doubts(alone, 16_000)[1] == ()
