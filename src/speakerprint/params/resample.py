"""The section `resample` of params.yaml."""

from typing import Literal

from speakerprint.params.section import Fraction, Positive, Section


class Resample(Section):
    engine: Literal["soxr", "resampy"]
    encoding: Literal["flac", "wav"]
    min_duration_s: Positive
    max_bad_fraction: Fraction
