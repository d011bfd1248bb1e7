from benchmarks.bench_filter import make
from speakerprint.corpora.sources import read_source
from speakerprint.corpora.sources.clips import read_clips
from speakerprint.params.sources import CommonVoiceSource


def read(root, n_rows):
    rows = read_source(CommonVoiceSource(kind="common_voice", root=str(root), splits=["train"]), "unused")
    assert len(rows) == n_rows
    assert rows["duration_s"].notna().all()
    return rows


def test_the_synthetic_release_is_read_as_one_and_has_as_many_speakers_as_said(tmp_path):
    root, n_speakers = make(500, False, tmp_path)
    assert read(root, 500)["speaker_id"].nunique() == n_speakers


def test_with_clips_every_row_has_one(tmp_path):
    root, _ = make(50, True, tmp_path)
    assert len(list(data for _, data in read_clips(read(root, 50)["location"].tolist()) if data)) == 50
