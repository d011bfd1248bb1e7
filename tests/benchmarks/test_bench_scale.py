from benchmarks.bench_scale import make
from speakerprint.corpora.sources import read_source
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.params.sources import CommonVoiceSource


def test_the_recordings_with_votes_are_those_with_a_clip_in_both_forms_of_a_release(tmp_path):
    for packed in (True, False):
        root = make(tmp_path / str(packed), n_rows=60, n_clips=20, packed=packed)
        rows = read_source(CommonVoiceSource(kind="common_voice", root=str(root), splits=["train"]), "unused")
        found = dict(read_clips(rows["location"].tolist()))
        assert len(rows) == 60
        assert rows["recording_id"][rows["up_votes"] > 0].tolist() == [
            id for row, id in enumerate(rows["recording_id"]) if found[row] is not None
        ]
        assert (rows["up_votes"] > 0).sum() == 20
