"""An entry under `corpora` in params.yaml."""

from speakerprint.params.filter import Filter
from speakerprint.params.role import Role
from speakerprint.params.section import Section
from speakerprint.params.sources import Source


class Corpus(Section):
    role: Role
    source: Source
    filter: Filter
