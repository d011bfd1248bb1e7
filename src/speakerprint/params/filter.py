"""The section `filter` of params.yaml."""

import re
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from speakerprint.params.language_names import LANGUAGE_NAMES
from speakerprint.params.section import Count, Fraction, NonNegative, Positive, PositiveInt, Section


class Filter(Section):
    exclude: str | None
    min_up_votes: Count
    max_down_votes: Count | None
    min_duration_s: NonNegative
    max_duration_s: Positive | None
    genders: Annotated[list[Literal["male", "female", "other"]], Field(min_length=1)] | None
    locales: Annotated[list[str], Field(min_length=1)] | None
    languages: Annotated[list[str], Field(min_length=1)] | None
    speaker_range: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    min_recordings_per_speaker: PositiveInt
    max_recordings_per_speaker: PositiveInt | None
    when_too_many: Literal["drop", "sample"]
    seed: Count

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: list[str] | None) -> list[str] | None:
        if languages is not None:
            for code in languages:
                if code not in LANGUAGE_NAMES:
                    names = {name: known for known, name in LANGUAGE_NAMES.items()} | {known: known for known in LANGUAGE_NAMES}
                    near = get_close_matches(code.lower(), names, n=1)
                    hint = f"did you mean {names[near[0]]}? It" if near else "it"
                    raise ValueError(f"{code!r} is no language that Whisper knows; {hint} takes codes such as en, de, zh")
        return languages

    @field_validator("exclude")
    @classmethod
    def _watched(cls, path: str | None) -> str | None:
        if path is not None and not re.fullmatch(r"data/given/exclude/[^/]+", path):
            raise ValueError("expected a file in data/given/exclude/, such as data/given/exclude/mine.csv")
        return path

    @model_validator(mode="after")
    def _ranges(self) -> "Filter":
        if self.speaker_range[0] >= self.speaker_range[1]:
            raise ValueError(f"speaker_range {self.speaker_range} is empty: the first number must be the smaller one")
        if self.max_recordings_per_speaker is not None and self.max_recordings_per_speaker < self.min_recordings_per_speaker:
            raise ValueError("max_recordings_per_speaker is smaller than min_recordings_per_speaker: no speaker can have both")
        if self.max_duration_s is not None and self.max_duration_s <= self.min_duration_s:
            raise ValueError("max_duration_s is not larger than min_duration_s: no recording can have both")
        return self
