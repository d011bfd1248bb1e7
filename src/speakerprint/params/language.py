"""The section `language` of params.yaml."""

from speakerprint.params.section import Fraction, PositiveInt, Section


class Language(Section):
    clips: PositiveInt
    min_probability: Fraction
