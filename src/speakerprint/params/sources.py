"""The section `sources` of params.yaml."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from speakerprint.params.section import Count, PositiveInt, Section

HubField = Literal[
    "recording_id", "speaker_id", "locale", "gender", "age", "accent", "up_votes", "down_votes", "duration_s", "audio"
]


class CommonVoiceSource(Section):
    kind: Literal["common_voice"]
    root: str
    locales: Annotated[list[str], Field(min_length=1)] | None = None
    splits: Annotated[list[str], Field(min_length=1)]


class HubSource(Section):
    kind: Literal["hub"]
    repository: Annotated[str, Field(min_length=1)]
    revision: str | None  # read_hub requires it of what is not on disk
    configuration: str | None
    splits: Annotated[list[str], Field(min_length=1)]
    columns: dict[HubField, str] | None = None

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str | None) -> str | None:
        if revision is not None and not re.fullmatch("[0-9a-f]{40}", revision):
            raise ValueError("revision is not a commit (40 hexadecimal digits): what a branch or tag names may change")
        return revision


class DataCollectiveSource(Section):
    kind: Literal["data_collective"]
    dataset: Annotated[str, Field(min_length=1)]
    locales: Annotated[list[str], Field(min_length=1)] | None = None
    splits: Annotated[list[str], Field(min_length=1)]


class VoxCelebSource(Section):
    kind: Literal["voxceleb"]
    root: str


class FolderSource(Section):
    kind: Literal["folder"]
    root: str


class EspeakSource(Section):
    kind: Literal["espeak"]
    splits: Annotated[list[str], Field(min_length=1)]
    speakers: PositiveInt
    recordings_per_speaker: PositiveInt
    seed: Count


Source = Annotated[
    CommonVoiceSource | DataCollectiveSource | HubSource | VoxCelebSource | FolderSource | EspeakSource,
    Field(discriminator="kind"),
]
