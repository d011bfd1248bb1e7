"""The report: what is on the page, and that it is what was asked for."""

import base64
import json
import re

import numpy as np
import pytest
import soundfile

from speakerprint.audio.decode import decode
from speakerprint.errors import InputError
from speakerprint.evaluation.trials import equal_error_rate, score_trials
from speakerprint.pages import report, toolkit
from speakerprint.pages.report import confused_pairs, read_corpus, read_files, render, report_data, write_report
from speakerprint.pages.toolkit import score_histogram
from tests.tones import SPEAKERS, ToneEmbedder, tone, write_project, write_tones


@pytest.fixture
def voices(tmp_path):
    return read_files(write_tones(tmp_path, SPEAKERS), ToneEmbedder())


def random_voices(n_speakers=6, n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), rng.integers(n_speakers, size=n)


# --- where recordings come from


def test_a_folder_per_speaker_says_who_speaks(voices):
    assert voices.names == sorted(SPEAKERS)
    assert voices.speakers.tolist() == [name[:3] for name in sorted(SPEAKERS)]


def test_a_folder_of_recordings_without_speakers_is_unlabelled(tmp_path):
    write_tones(tmp_path, {"b.wav": 300, "a.wav": 400})
    (tmp_path / "notes.txt").touch()
    found = read_files(tmp_path, ToneEmbedder())
    assert found.names == ["a.wav", "b.wav"] and found.speakers is None


def test_a_table_names_files_beside_it(tmp_path):
    write_tones(tmp_path / "clips", {"a.wav": 300, "b.wav": 400})
    (tmp_path / "calls.csv").write_text("speaker,path\nann,clips/b.wav\nbob,clips/a.wav\n")
    found = read_files(tmp_path / "calls.csv", ToneEmbedder())
    assert found.names == ["clips/b.wav", "clips/a.wav"] and found.speakers.tolist() == ["ann", "bob"]
    (tmp_path / "calls.csv").write_text("path\nclips/a.wav\n")
    assert read_files(tmp_path / "calls.csv", ToneEmbedder()).speakers is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("speeker,path\nann,a.wav\n", "line 1: columns speeker,path; expected speaker,path, or path alone"),
        (None, "does not exist; expected a folder of recordings, or a CSV"),
    ],
)
def test_a_table_that_does_not_say_what_it_should_is_refused(tmp_path, table, message):
    if table is not None:
        (tmp_path / "calls.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        read_files(tmp_path / "calls.csv", ToneEmbedder())


@pytest.mark.slow
def test_an_evaluation_corpus_is_taken_from_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, "tones_dev")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/tones_dev.json").write_text(json.dumps({"log_mel_floor_eer": 0.25}))
    embedder = ToneEmbedder()
    found = read_corpus("tones_dev", embedder)
    assert found.names == [name[:-4] for name in sorted(SPEAKERS)]
    for index, (samples, sample_rate_hz) in zip([1, 5], found.audio([1, 5]), strict=True):
        np.testing.assert_allclose(
            embedder.embed(samples, sample_rate_hz), embedder.embed(tone(SPEAKERS[found.names[index] + ".wav"]), 16_000)
        )
    measured = report_data(found, embedder)["measured"]
    assert measured["floor_eer"] == 0.25
    assert found.speakers is not None
    assert measured["figures"]["eer"] == equal_error_rate(found.embeddings, found.speakers)


# --- what the page shows


def test_confused_pairs_are_the_worst_of_every_pair_of_speakers_and_of_every_speaker():
    embeddings, speakers = random_voices()
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    between: dict[tuple, tuple] = {}
    within: dict[tuple, tuple] = {}
    for i in range(len(units)):
        for j in range(i):
            score, key = units[i] @ units[j], tuple(sorted((int(speakers[i]), int(speakers[j]))))
            if key[0] == key[1]:
                within[key] = min((score, {i, j}), within.get(key, (2, {})), key=lambda pair: pair[0])
            else:
                between[key] = max((score, {i, j}), between.get(key, (-2, {})), key=lambda pair: pair[0])
    highest, lowest = confused_pairs(embeddings, speakers, 4)
    for found, expected in (
        (highest, sorted(between.values(), key=lambda pair: -pair[0])),
        (lowest, sorted(within.values(), key=lambda pair: pair[0])),
    ):
        assert [{pair.first, pair.second} for pair in found] == [pair for _, pair in expected[:4]]
        np.testing.assert_allclose([pair.score for pair in found], [score for score, _ in expected[:4]])


def test_recordings_of_unknown_speakers_have_no_target_pairs():
    embeddings, _ = random_voices(n=4)
    highest, lowest = confused_pairs(embeddings, np.arange(4), 12)
    assert len(highest) == 6 and lowest == []


def test_the_slider_counts_exactly_the_trials_that_each_threshold_decides():
    trials = score_trials(*random_voices())
    rates = report._rates(trials)
    n = len(rates["misses"])
    assert (rates["misses"][0], rates["false_accepts"][0]) == (0, len(trials.nontarget))
    assert (rates["misses"][-1], rates["false_accepts"][-1]) == (len(trials.target), 0)
    for at in range(0, n, 7):
        threshold = (rates["first"] + at) / rates["steps_per_unit"]
        assert rates["misses"][at] == sum(score / 2**24 < threshold for score in np.asarray(trials.target).tolist())
        assert rates["false_accepts"][at] == sum(score / 2**24 >= threshold for score in np.asarray(trials.nontarget).tolist())


def test_densities_of_both_kinds_integrate_to_one():
    histogram = score_histogram(score_trials(*random_voices()))
    widths = np.diff(histogram["edges"])
    assert (histogram["target"] @ widths, histogram["nontarget"] @ widths) == pytest.approx((1, 1), abs=1e-2)


def test_the_nearest_recordings_are_those_with_the_highest_scores(voices):
    data = report_data(voices, ToneEmbedder())
    scores = voices.embeddings @ voices.embeddings.T
    for at, one in enumerate(data["recordings"]):
        others = sorted(set(range(9)) - {at}, key=lambda other: -scores[at, other])
        assert {other for other, _ in one["nearest"][:2]} == set(others[:2])
        assert [score for _, score in one["nearest"]] == pytest.approx(scores[at, others[:5]].tolist(), abs=1e-3)


def test_the_map_shows_whole_speakers_up_to_the_limit_and_the_figures_are_of_all(voices):
    data = report_data(voices, ToneEmbedder(), max_recordings=6)
    shown = [data["recordings"][at]["speaker"] for at, *_ in data["map"]]
    assert sorted(shown.count(speaker) for speaker in set(shown)) == [3, 3]
    assert data["measured"]["rates"]["n_target"] == 9
    assert "The map shows 6 of 9 recordings" in data["notes"][0]
    assert max(place for pair in data["likest"] + data["unlikest"] for place in pair[:2]) < len(data["recordings"])


def test_without_speakers_there_is_a_map_and_what_is_most_alike(tmp_path):
    write_tones(tmp_path, {"a.wav": 300, "b.wav": 310, "c.wav": 700})
    data = report_data(read_files(tmp_path, ToneEmbedder()), ToneEmbedder())
    assert data["measured"] is None and data["unlikest"] == [] and len(data["map"]) == 3
    first, second, score = data["likest"][0]
    assert {data["recordings"][first]["name"], data["recordings"][second]["name"]} == {"a.wav", "b.wav"}
    assert score == pytest.approx(np.cos(0.01), abs=1e-6)


def test_speakers_of_one_recording_each_have_no_figures_and_the_page_says_so(tmp_path):
    write_tones(tmp_path, {"ann/a.wav": 300, "bob/a.wav": 310, "cyd/a.wav": 700})
    data = report_data(read_files(tmp_path, ToneEmbedder()), ToneEmbedder())
    assert data["measured"] is None and "There are no figures" in data["notes"][0]


def test_two_recordings_are_too_few(tmp_path):
    write_tones(tmp_path, {"a.wav": 300, "b.wav": 310})
    with pytest.raises(InputError, match="has 2 recordings, expected at least 3; for two there is `verify`"):
        report_data(read_files(tmp_path, ToneEmbedder()), ToneEmbedder())


# --- audio


def test_what_is_heard_is_the_start_of_the_recording(voices, monkeypatch):
    monkeypatch.setattr(toolkit, "MAX_LISTEN_S", 0.5)
    one = report_data(voices, ToneEmbedder())["recordings"][4]
    samples, sample_rate_hz = decode(base64.b64decode(one["audio"]), "audio")
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() * sample_rate_hz / len(samples) == pytest.approx(SPEAKERS[one["name"]], abs=3)
    assert len(samples) / sample_rate_hz == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
def test_where_there_is_no_room_for_all_the_pairs_keep_their_audio(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "N_PAIRS", 1)
    voices = read_files(write_tones(tmp_path, SPEAKERS), ToneEmbedder())
    whole = report_data(voices, ToneEmbedder())
    in_pairs = {at for pair in whole["likest"] + whole["unlikest"] for at in pair[:2]}
    room = sum(len(base64.b64decode(whole["recordings"][at]["audio"])) for at in in_pairs)
    monkeypatch.setattr(toolkit, "MAX_AUDIO_BYTES", room)
    data = report_data(voices, ToneEmbedder())
    assert {at for at, one in enumerate(data["recordings"]) if one["audio"]} == in_pairs
    assert data["notes"][0].startswith(f"{len(in_pairs)} of 9 recordings can be listened to")


def test_loud_stereo_at_another_rate_three_times_the_same_can_be_mapped_and_heard(tmp_path):
    for name in ("a", "b", "c"):
        soundfile.write(
            tmp_path / f"{name}.wav", 3 * np.stack([tone(440, sample_rate_hz=44_100)] * 2, axis=1), 44_100, subtype="FLOAT"
        )
    data = report_data(read_files(tmp_path, ToneEmbedder()), ToneEmbedder())
    one = data["recordings"][0]
    assert np.isfinite(data["map"]).all()
    samples, sample_rate_hz = decode(base64.b64decode(one["audio"]), "audio")
    assert len(samples) / sample_rate_hz == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_the_same_recordings_give_the_same_page(voices):
    assert render(report_data(voices, ToneEmbedder())) == render(report_data(voices, ToneEmbedder()))


# --- the page


def test_the_page_holds_the_data_whatever_files_are_called(tmp_path):
    write_tones(tmp_path, {"a <b>.wav": 300, "{{data}}.wav": 310, "c & 'd'.wav": 700})
    write_report(read_files(tmp_path, ToneEmbedder()), ToneEmbedder(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in data
    assert sorted(one["name"] for one in json.loads(data)["recordings"]) == ["a <b>.wav", "c & 'd'.wav", "{{data}}.wav"]


def test_the_page_forbids_itself_the_network(voices):
    page = render(report_data(voices, ToneEmbedder()))
    assert "default-src 'none'" in page.split("</head>")[0]
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="(?!data:)', page.split("<script>")[0])
