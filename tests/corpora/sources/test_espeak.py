import io
import tarfile
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from speakerprint.corpora.sources import espeak
from speakerprint.errors import InputError
from speakerprint.params.sources import EspeakSource

RELEASE = "cv-corpus-demo/en"
COLUMNS_17 = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
]


def make_source(**changes: Any) -> EspeakSource:
    usual: dict[str, Any] = {"splits": ["train", "dev"], "speakers": 2, "recordings_per_speaker": 3, "seed": 1}
    return EspeakSource(kind="espeak", **usual | changes)


def write(path, **changes):
    espeak.write_release(make_source(**changes), path)
    return path


def read_table(archive, name):
    with tarfile.open(archive) as tar:
        return pd.read_csv(tar.extractfile(f"{RELEASE}/{name}.tsv"), sep="\t", quoting=3)


def read_clips(archive):
    with tarfile.open(archive) as tar:
        return {
            member.name.rsplit("/", 1)[1]: soundfile.read(io.BytesIO(tar.extractfile(member).read()))
            for member in tar
            if member.name.endswith(".mp3")
        }


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write(tmp_path_factory.mktemp("release") / "demo.tar.gz")


@pytest.mark.slow
def test_the_same_source_gives_the_same_bytes_on_one_core(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert write(tmp_path / "other-name.tar.gz").read_bytes() == archive.read_bytes()


@pytest.mark.slow
def test_another_seed_gives_other_speakers(archive, tmp_path):
    other = write(tmp_path / "demo.tar.gz", seed=2, splits=["dev"], recordings_per_speaker=1)
    assert not set(read_table(other, "dev").client_id) & set(read_table(archive, "dev").client_id)


@pytest.mark.slow
def test_a_speaker_is_the_same_whichever_other_splits_and_speakers_are_made(archive, tmp_path):
    alone = write(tmp_path / "demo.tar.gz", splits=["dev"], speakers=1)
    expected, found = read_table(archive, "dev"), read_table(alone, "dev")
    pd.testing.assert_frame_equal(found, expected.iloc[:3])
    clips = read_clips(archive)
    for name, (waveform, _) in read_clips(alone).items():
        np.testing.assert_array_equal(waveform, clips[name][0])


@pytest.mark.parametrize("variant", " ".join(espeak.VARIANTS.values()).split())
def test_an_utterance_does_not_depend_on_the_one_before(variant):
    settings: dict[str, Any] = {"voice": f"en-us+{variant}", "rate_wpm": 300, "pitch": 50, "pitch_range": 50}
    alone = espeak.speak("Seven heavy boxes.", **settings)
    espeak.speak("Good morning!", voice="en-gb-scotland+f2", rate_wpm=200, pitch=80, pitch_range=90)
    np.testing.assert_array_equal(espeak.speak("Seven heavy boxes.", **settings), alone)
    assert np.abs(alone).max() > 0.05


@pytest.mark.parametrize("accent", espeak.ACCENTS)
def test_every_accent_is_a_voice_of_its_own(accent):
    settings = {"rate_wpm": 200, "pitch": 50, "pitch_range": 50}
    spoken = {voice: espeak.speak("The baker bought a warm jacket.", voice, **settings) for voice in espeak.ACCENTS}
    assert all(not np.array_equal(spoken[accent], spoken[voice]) for voice in espeak.ACCENTS if voice != accent)


def test_a_higher_pitch_setting_raises_the_fundamental():
    def fundamental_hz(pitch):
        waveform = espeak.speak("Aaah.", "en-us+m3", rate_wpm=100, pitch=pitch, pitch_range=0)
        middle = waveform[len(waveform) // 4 :][:4096]
        correlation = np.correlate(middle, middle, "full")[4095:]
        shortest = espeak.ESPEAK_SAMPLE_RATE_HZ // 400
        return espeak.ESPEAK_SAMPLE_RATE_HZ / (shortest + correlation[shortest:600].argmax())

    assert fundamental_hz(70) > 1.15 * fundamental_hz(40)


def test_tables_have_the_columns_of_release_17_and_come_before_the_clips(archive):
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert [m.name for m in members[:3]] == [f"{RELEASE}/{name}.tsv" for name in ("clip_durations", "dev", "train")]
    assert all(m.name.startswith(f"{RELEASE}/clips/common_voice_en_") for m in members[3:])
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    for split in ("train", "dev"):
        table = read_table(archive, split)
        assert list(table.columns) == COLUMNS_17
        assert set(table.locale) == {"en"}
        assert table.client_id.str.fullmatch("[0-9a-f]{128}").all()
        assert table.path.str.fullmatch(r"common_voice_en_\d{8,}\.mp3").all()
        assert table.groupby("client_id").size().tolist() == [3, 3]
        assert (table.groupby("client_id")[["gender", "age", "accents"]].nunique() == 1).all(axis=None)


def test_the_archive_carries_no_clock_time(archive):
    header = archive.read_bytes()[:10]
    assert header[4:8] == bytes(4)  # gzip's modification time
    assert header[3] == 0  # no file name


def test_splits_share_no_speaker_and_no_clip(archive):
    train, dev = read_table(archive, "train"), read_table(archive, "dev")
    assert not set(train.client_id) & set(dev.client_id)
    assert not set(train.path) & set(dev.path)


def test_clips_are_48_khz_mono_of_the_stated_length(archive):
    clips = read_clips(archive)
    durations = read_table(archive, "clip_durations").set_index("clip")["duration[ms]"]
    assert set(durations.index) == set(clips) == {*read_table(archive, "train").path, *read_table(archive, "dev").path}
    for name, (waveform, sample_rate_hz) in clips.items():
        assert sample_rate_hz == 48_000
        assert waveform.ndim == 1
        assert len(waveform) / 48 == pytest.approx(durations[name], abs=60)  # MP3 comes in frames of 24 ms
        assert 1.5 < len(waveform) / 48_000 < 8
        assert 0.2 < np.abs(waveform).max() < 1


def test_clips_of_a_speaker_differ_in_sentence_and_sound(archive):
    clips = read_clips(archive)
    for _, rows in read_table(archive, "train").groupby("client_id"):
        assert rows.sentence.nunique() == len(rows)
        assert len({waveform.tobytes() for waveform, _ in map(clips.get, rows.path)}) == len(rows)


def test_rooms_and_microphones_belong_to_the_clip():
    click = np.zeros(24_000, np.float32)
    click[1000] = 1
    silence = np.zeros_like(click)
    first, again, other = (espeak.record(click, 0.0, silence, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.corrcoef(first, other)[0, 1]) < 0.99


@pytest.mark.slow
def test_in_half_of_the_clips_somebody_else_talks_in_the_background_more_softly():
    talks = [espeak._background(np.random.default_rng(seed), 30_000) for seed in range(60)]
    assert 0.35 < np.mean([talk.any() for talk in talks]) < 0.65
    assert all(talk.shape == (30_000,) for talk in talks)
    dry, talk = np.sin(np.arange(30_000)).astype(np.float32), next(talk for talk in talks if talk.any())
    alone, both = (espeak.record(dry, 0.0, background, np.random.default_rng(1)) for background in (0 * talk, talk))
    assert 0.9 < np.corrcoef(alone, both)[0, 1] < 0.9999


def test_votes_leave_the_filter_something_to_drop():
    votes = np.array([espeak._votes(np.random.default_rng(seed)) for seed in range(2000)])
    assert 0.07 < np.mean(votes[:, 0] < 2) < 0.13
    assert 0.03 < np.mean(votes[:, 1] > 0) < 0.07
    assert votes.min() == 0 and votes[:, 0].min() == 1


def test_gender_goes_with_the_voice():
    speakers = [espeak.draw_speaker(1, "train", index) for index in range(50)]
    assert {speaker.gender for speaker in speakers} == set(espeak.VARIANTS)
    for speaker in speakers:
        assert speaker.voice.split("+")[1] in espeak.VARIANTS[speaker.gender].split()


@pytest.mark.parametrize("splits", [["train", "validated"], ["dev", "dev"]])
def test_unknown_and_repeated_splits_are_refused(splits, tmp_path):
    with pytest.raises(InputError, match=f"{splits[1]}.*train, dev, test"):
        write(tmp_path / "demo.tar.gz", splits=splits)
    assert not list(tmp_path.iterdir())


def test_a_library_that_does_not_load_is_an_input_error_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(espeak.espeakng_loader, "get_library_path", lambda: str(tmp_path / "libespeak-ng.so"))
    with pytest.raises(InputError, match=r"libespeak-ng\.so.*pip install --force-reinstall"):
        espeak.speak("Hello.", "en-us+f2", rate_wpm=170, pitch=50, pitch_range=50)


def test_missing_voice_data_is_an_input_error(monkeypatch, tmp_path):
    monkeypatch.setattr(espeak.espeakng_loader, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(InputError, match="cannot read its data"):
        espeak.speak("Hello.", "en-us+f2", rate_wpm=170, pitch=50, pitch_range=50)


def test_a_run_that_fails_leaves_no_archive(monkeypatch, tmp_path):
    monkeypatch.setattr(espeak, "_pack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "demo.tar.gz", splits=["dev"], speakers=1, recordings_per_speaker=1)
    assert not list(tmp_path.iterdir())
