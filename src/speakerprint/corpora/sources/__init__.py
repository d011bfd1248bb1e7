"""Where recordings come from: one module per kind of source, one function each, all in the schema of `recordings`."""

from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from speakerprint.corpora.sharing import SharedFolder
from speakerprint.corpora.sources import espeak
from speakerprint.corpora.sources.common_voice import SharedLists, read_common_voice
from speakerprint.corpora.sources.data_collective import read_data_collective
from speakerprint.corpora.sources.folder import read_folder
from speakerprint.corpora.sources.hub import read_hub
from speakerprint.corpora.sources.voxceleb import read_voxceleb
from speakerprint.params.sources import (
    CommonVoiceSource,
    DataCollectiveSource,
    EspeakSource,
    FolderSource,
    HubSource,
    Source,
    VoxCelebSource,
)


def read_source(source: Source, folder: str | Path) -> pd.DataFrame:
    """The recordings of a source as one table; as `source_chunks`."""
    return pd.concat(source_chunks(source, folder), ignore_index=True)


def source_chunks(
    source: Source, folder: str | Path, shared: SharedFolder | None = None, later: Collection[Source] = ()
) -> Iterable[pd.DataFrame]:
    """The recordings of a source, in the schema of `recordings`, sorted by recording_id; those of Common Voice chunk by chunk.

    What a source has to make or fetch is written to ``folder``; audio that is on disk already stays where it is. An archive of
    Common Voice is read once for its lists of clips: for this source and those of ``later``, whose corpora wait for ``shared``.

    Raises InputError if the source is missing, damaged or empty, of Common Voice not before its chunks are asked for.
    """
    match source:
        case CommonVoiceSource():
            return read_common_voice(source, _shared_lists(source, shared, later))
        case DataCollectiveSource():
            return read_data_collective(source, _shared_lists(source, shared, later))
        case HubSource():
            return [read_hub(source)]
        case VoxCelebSource():
            return [read_voxceleb(source)]
        case FolderSource():
            return [read_folder(source)]
        case EspeakSource():
            archive = Path(folder) / "cv-corpus-demo.tar.gz"
            espeak.write_release(source, archive)
            return read_common_voice(CommonVoiceSource(kind="common_voice", root=str(archive), splits=source.splits))


def _shared_lists(
    source: CommonVoiceSource | DataCollectiveSource, shared: SharedFolder | None, later: Collection[Source]
) -> SharedLists | None:
    """What later sources read of the same archives; None if no folder is shared."""
    if shared is None:
        return None
    part = {"splits", "locales"}
    same = (
        one
        for one in later
        if isinstance(one, CommonVoiceSource | DataCollectiveSource)
        and one.model_dump(exclude=part) == source.model_dump(exclude=part)
    )
    return SharedLists(shared, [(one.splits, one.locales) for one in same])
