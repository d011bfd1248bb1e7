"""Of a chained Ogg file all is heard, or it is refused: its first link is never taken for the whole."""

import re

import numpy as np
import pytest

from speakerprint.audio import ogg_chain
from speakerprint.audio.decode import decode
from speakerprint.audio.files import UndecodableAudio
from speakerprint.audio.stream import AudioStream
from tests.audio.test_decode import encoded, tones

CODECS = ["VORBIS", "OPUS"]


def ogg(frequency_hz: float, codec: str = "VORBIS", sample_rate_hz: int = 16_000, channels: int = 1) -> bytes:
    """0.6 s of a tone."""
    samples = tones([frequency_hz], sample_rate_hz, 0.6)
    return encoded(np.stack([samples] * channels, axis=1), sample_rate_hz, "OGG", subtype=codec)


def streamed(data: bytes, path) -> np.ndarray:
    path.write_bytes(data)
    return np.concatenate(list(AudioStream(path))).mean(axis=1)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("channels", [1, 2])
def test_all_links_are_heard_each_as_if_it_were_alone(codec, channels, tmp_path):
    links = [ogg(frequency_hz, codec, channels=channels) for frequency_hz in (300, 500, 900)]
    expected = np.concatenate([decode(link, "link")[0] for link in links])
    np.testing.assert_array_equal(decode(b"".join(links), "chain")[0], expected)
    np.testing.assert_allclose(streamed(b"".join(links), tmp_path / "chain"), expected, atol=1e-6)
    assert AudioStream(tmp_path / "chain").duration_s == pytest.approx(1.8)


def test_a_chain_of_two_codecs_is_heard():
    assert len(decode(ogg(300, "VORBIS") + ogg(500, "OPUS"), "chain")[0]) == 2 * 9600


def test_links_are_found_wherever_blocks_of_the_file_end(monkeypatch, tmp_path):
    data = ogg(300) + ogg(500)
    expected = ogg_chain.link_starts(open_bytes(data, tmp_path))
    for size in range(len(data) // 2 - 300, len(data) // 2 + 300, 7):
        monkeypatch.setattr(ogg_chain, "SEARCHED", size)
        assert ogg_chain.link_starts(open_bytes(data, tmp_path)) == expected == [0, len(ogg(300))]


def open_bytes(data: bytes, folder):
    (folder / "file").write_bytes(data)
    return (folder / "file").open("rb")


def test_streams_that_run_beside_each_other_are_one_link(tmp_path):
    first_page = 27 + 1 + 30  # of Vorbis: its identification header has 30 bytes
    vorbis = ogg(300)
    assert vorbis[:4] == vorbis[first_page : first_page + 4] == b"OggS"
    beside = ogg(500, "OPUS")[: 27 + 1 + 19]
    assert ogg_chain.link_starts(open_bytes(beside + vorbis + beside + vorbis, tmp_path)) == [0, len(beside + vorbis)]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (ogg(500, sample_rate_hz=48_000), "the first of 1 channels at 16,000 Hz, number 2 of 1 at 48,000 Hz; take it apart"),
        (ogg(500, channels=2), "number 2 of 2 at 16,000 Hz; take it apart, or convert it"),
        (ogg(500)[:200], "number 2 is cut off in a page"),
        (ogg(500)[:58], "is a chain of 2 Ogg streams; number 2 cannot be read"),
        (ogg(500)[:-40] + ogg(900), "number 2 is cut off in a page"),
    ],
    ids=["another rate", "two channels", "a part of it", "its first page", "a part of it, then another"],  # the bytes are drawn
)
def test_a_chain_that_cannot_be_heard_as_one_is_refused(second, reason, tmp_path):
    with pytest.raises(UndecodableAudio, match=re.escape(reason)):
        decode(ogg(300) + second, "chain")
    with pytest.raises(UndecodableAudio, match=re.escape(reason)):
        streamed(ogg(300) + second, tmp_path / "chain")


def test_a_chain_whose_first_link_libsndfile_cannot_read_is_refused(tmp_path):
    unknown = ogg(300).replace(b"vorbis", b"Vorbis")
    with pytest.raises(UndecodableAudio, match="number 1 cannot be read"):
        decode(unknown + ogg(300), "chain")
    with pytest.raises(UndecodableAudio, match="number 1 cannot be read"):
        streamed(unknown + ogg(300), tmp_path / "chain")


def test_what_one_recording_may_hold_holds_for_all_links_together(monkeypatch):
    with pytest.raises(UndecodableAudio, match=r"lasts more than 1 s; cut it"):
        decode(ogg(300) + ogg(500), "chain", max_duration_s=1.0)
    monkeypatch.setattr(ogg_chain, "MAX_STREAMS", 3)
    with pytest.raises(UndecodableAudio, match="holds over 3 Ogg streams; cut it into parts"):
        decode(4 * ogg(300), "chain")
