"""The section `pretrained` of params.yaml."""

from speakerprint.params.section import Section


class Pretrained(Section):
    source: str
