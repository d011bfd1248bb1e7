"""Random streams: none is another, and each depends on its name and number alone."""

import numpy as np

from speakerprint.training.streams import Streams

NAMES = ("order", "recordings", "lengths", "crops", "noise")


def first(generator: np.random.Generator) -> int:
    return int(generator.integers(2**63))


def test_no_two_streams_of_a_run_are_the_same():
    streams = Streams(1)
    draws = [
        first(getattr(one, name)(number)) for one in (streams, streams.of("start")) for name in NAMES for number in range(50)
    ]
    draws += [first(streams.held_out()), streams.weights(), *(streams.views(number) for number in range(50))]
    assert len(set(draws)) == len(draws)


def test_a_stream_follows_from_the_seed_its_name_and_its_number():
    assert first(Streams(1).crops(7)) == first(Streams(1).crops(7))
    assert first(Streams(1).crops(7)) != first(Streams(2).crops(7))
    assert Streams(3).views(2**40) == Streams(3).views(2**40)


def test_the_number_0_is_a_number_of_its_own():
    """In numpy's own seeding [seed, 3] equals [seed, 3, 0]: two streams would draw the same."""
    assert first(np.random.default_rng([1, 3])) == first(np.random.default_rng([1, 3, 0]))
    assert first(Streams(1).order(0)) != first(np.random.default_rng(1)) != first(Streams(0).order(1))
