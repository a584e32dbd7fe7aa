"""What is read from a file: every format, channels and ranges."""

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.errors import MediaError
from pipeline.media.files import CHUNK_MS, MediaFile, Selection
from schemas.media import MAX_CHUNK_BYTES, Encoding
from schemas.requests import ChannelMode
from tests.media.samples import FORMATS, Format, Int16, noise, samples, tones, write


def read(path: Path, selection: Selection, chunk_ms: int = CHUNK_MS) -> Int16:
    with MediaFile(path, selection, chunk_ms=chunk_ms) as media:
        return samples(list(media.chunks()), media.format.channels)


def refusal(path: Path, selection: Selection | None = None) -> str:
    with pytest.raises(MediaError) as caught, MediaFile(path, selection or Selection()) as media:
        list(media.chunks())
    assert "\n" not in str(caught.value)
    assert str(path.parent) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: f"{one.container}-{one.encoding}")
def test_every_format_gives_the_audio_that_was_written(tmp_path: Path, one: Format) -> None:
    rate_hz = 48_000 if one.encoding == "OPUS" else 16_000
    original = tones(1.3, one.max_channels, rate_hz)
    path = write(tmp_path / "file", original, rate_hz, one.container, one.encoding)
    with MediaFile(path) as media:
        chunks = list(media.chunks())
        assert media.format.sample_rate_hz == rate_hz
        assert media.format.channels == one.max_channels
        assert media.channel_numbers == list(range(one.max_channels))
    got = samples(chunks, one.max_channels)
    assert 0 <= len(got) - len(original) <= (640 if one.encoding == "GSM610" else 0)  # GSM is written in whole blocks of 320
    for number in range(one.max_channels):
        heard = got[: len(original), number] / 32768
        assert np.corrcoef(heard, original[:, number])[0, 1] >= one.likeness - 1e-9
        assert np.std(heard) == pytest.approx(np.std(original[:, number]), rel=0.05)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 32000, 44100, 48000])
def test_a_rate_that_calls_have_is_kept_and_the_samples_are_the_files(wav: Path, rate_hz: int) -> None:
    original = noise(rate_hz + 17, 2)
    write(wav, original, rate_hz)
    assert np.array_equal(read(wav, Selection()), original)


@pytest.mark.parametrize("rate_hz", [1000, 11025, 12000, 22050, 24000, 96000, 192000])
def test_another_rate_becomes_16000_the_same_way_however_it_is_cut(wav: Path, rate_hz: int) -> None:
    write(wav, tones(2.0, 1, rate_hz), rate_hz)
    whole = read(wav, Selection())
    assert len(whole) == 32_000
    for chunk_ms in (10, 20, 70, 499):
        for _ in range(2):
            assert np.array_equal(read(wav, Selection(), chunk_ms=chunk_ms), whole)
    if rate_hz > 2000:
        assert np.corrcoef(whole[1000:-1000, 0], tones(2.0, 1, 16_000)[1000:-1000, 0])[0, 1] > 0.999


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: f"{one.container}-{one.encoding}")
def test_the_size_of_the_chunks_changes_nothing(tmp_path: Path, one: Format) -> None:
    path = write(tmp_path / "file", tones(1.3, 1, 16_000), 16_000, one.container, one.encoding)
    whole = read(path, Selection(), chunk_ms=5000)
    for chunk_ms in (7, 100, 500):
        assert np.array_equal(read(path, Selection(), chunk_ms=chunk_ms), whole)


def test_the_encodings_of_a_call(wav: Path) -> None:
    write(wav, noise(8000, 1), 8000)
    for encoding in (Encoding.MULAW, Encoding.ALAW):
        with MediaFile(wav, encoding=encoding) as media:
            assert [len(chunk) for chunk in media.chunks()] == [4000, 4000]


def test_floats_that_are_no_numbers_or_too_loud_do_no_harm(wav: Path) -> None:
    values = np.array([0.5, np.nan, np.inf, -np.inf, 7.0, -7.0, 1.0, -1.0, 1e-40, -0.5])
    for encoding in ("FLOAT", "DOUBLE"):
        write(wav, values.reshape(-1, 1), 8000, "WAV", encoding)
        expected = [16384, 0, 32767, -32768, 32767, -32768, 32767, -32768, 0, -16384]
        assert read(wav, Selection())[:, 0].tolist() == expected
    write(wav, np.tile(values, 1000).reshape(-1, 1), 11_025, "WAV", "DOUBLE")
    assert len(read(wav, Selection())) == round(10_000 / 11_025 * 16_000)


@pytest.mark.parametrize("encoding", ["VORBIS", "OPUS"])
def test_what_is_decoded_beyond_full_scale_is_full_scale(tmp_path: Path, encoding: str) -> None:
    """Codecs overshoot where speech is loud; libsndfile's integers would change their sign there."""
    path = tmp_path / "loud.ogg"
    square = np.where(np.arange(48_000) // 60 % 2, 0.999, -0.999).reshape(-1, 1)
    write(path, square, 48_000, "OGG", encoding)
    exact = soundfile.read(path, dtype="float32", always_2d=True)[0]
    assert np.abs(exact).max() > 1.0
    with MediaFile(path) as media:
        decoded = np.concatenate(list(media._blocks()))
    assert np.abs(decoded / 32768 - np.clip(exact, -1.0, 1.0)).max() < 1e-4


@pytest.mark.parametrize(("rate_hz", "channels"), [(24_000, 8), (96_000, 4), (11_025, 8), (16_000, 8)])
def test_no_chunk_is_larger_than_a_call_may_have(wav: Path, rate_hz: int, channels: int) -> None:
    write(wav, np.zeros((rate_hz * 21 // 2, channels)), rate_hz)
    with MediaFile(wav, chunk_ms=10_000) as media:
        assert max(len(chunk) for chunk in media.chunks()) <= MAX_CHUNK_BYTES


def test_channels_come_in_the_order_that_was_asked_for(wav: Path) -> None:
    original = noise(1000, 5)
    write(wav, original, 8000)
    for channels in ([4, 0], [2], [0, 1, 2, 3, 4], [3, 1, 2]):
        with MediaFile(wav, Selection(channels=channels)) as media:
            assert media.channel_numbers == channels
            assert np.array_equal(samples(list(media.chunks()), len(channels)), original[:, channels])


def test_a_mix_is_the_mean_of_the_chosen_channels_as_one(wav: Path) -> None:
    original = noise(1000, 3)
    original[0] = [32767, 32767, 32767]
    original[1] = [-32768, 5, -32768]
    write(wav, original, 8000)
    for channels in (None, [2, 0], [1]):
        with MediaFile(wav, Selection(channel_mode=ChannelMode.MIX, channels=channels)) as media:
            assert (media.format.channels, media.channel_numbers) == (1, [0])
            chosen = original if channels is None else original[:, channels]
            assert np.array_equal(samples(list(media.chunks()), 1)[:, 0], np.rint(chosen.mean(axis=1)))


def test_a_mix_may_be_of_more_channels_than_a_call_has(wav: Path) -> None:
    original = noise(2000, 300)
    write(wav, original, 8000)
    for channels in (list(range(300)), list(range(9))):
        mix = read(wav, Selection(channel_mode=ChannelMode.MIX, channels=channels))
        assert np.array_equal(mix[:, 0], np.rint(original[:, channels].mean(axis=1)))


def test_channels_that_cannot_be_taken(wav: Path) -> None:
    write(wav, noise(100, 3), 8000)
    assert refusal(wav, Selection(channels=[0, 3])) == "the file has 3 channels, so no channel 3"
    assert refusal(wav, Selection(channels=[-1])) == "the file has 3 channels, so no channel -1"
    assert "none is chosen" in refusal(wav, Selection(channels=[]))
    write(wav, noise(100, 300), 8000)
    assert refusal(wav) == "the file has 300 channels, more than 8"
    assert "more than 8" in refusal(wav, Selection(channels=list(range(9))))
    assert np.array_equal(read(wav, Selection(channels=[299, 7])), noise(100, 300)[:, [299, 7]])


def test_ranges(wav: Path) -> None:
    original = noise(16_000, 1)
    write(wav, original, 8000)

    def cut(from_s: float, to_s: float | None) -> Int16:
        return read(wav, Selection(range_from_s=from_s, range_to_s=to_s))

    assert np.array_equal(cut(0.5, 1.25), original[4000:10_000])
    assert np.array_equal(cut(1.0004, None), original[8000:])
    assert np.array_equal(cut(0.0, 0.001), original[:8])
    assert np.array_equal(cut(1.5, 99.0), original[12_000:])
    assert len(cut(2.0, None)) == len(cut(3.0, 1e300)) == len(cut(1e300, None)) == len(cut(1.0, 1.0)) == len(cut(1.0, 0.5)) == 0
    for times in ((float("nan"), None), (0.0, float("inf")), (float("inf"), None)):
        assert "no number" in refusal(wav, Selection(range_from_s=times[0], range_to_s=times[1]))


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.sampled_from([8000, 11_025, 44_100, 96_000]),
    channels=st.integers(1, 4),
    picked=st.data(),
    from_ms=st.integers(0, 900),
    length_ms=st.integers(0, 900),
    chunk_ms=st.sampled_from([37, 500]),
)
def test_a_part_of_a_file_is_that_part_of_the_whole(
    rate_hz: int, channels: int, picked: st.DataObject, from_ms: int, length_ms: int, chunk_ms: int
) -> None:
    numbers = picked.draw(
        st.permutations(range(channels)).flatmap(lambda order: st.integers(1, channels).map(lambda n: order[:n]))
    )
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "file.wav", noise(rate_hz * 7 // 10, channels, seed=channels), rate_hz)
        whole = read(path, Selection())
        part = Selection(channels=numbers, range_from_s=from_ms / 1000, range_to_s=(from_ms + length_ms) / 1000)
        kept_hz = 16_000 if rate_hz in (11_025, 96_000) else rate_hz
        first, end = ((at_ms * kept_hz + 500) // 1000 for at_ms in (from_ms, from_ms + length_ms))
        assert np.array_equal(read(path, part, chunk_ms=chunk_ms), whole[first:end, numbers])
        for place, number in enumerate(numbers):
            alone = Selection(channels=[number], range_from_s=part.range_from_s, range_to_s=part.range_to_s)
            assert np.array_equal(read(path, alone)[:, 0], whole[first:end, numbers[place]])


@pytest.mark.parametrize(
    ("container", "encoding"),
    [
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
        ("RAW", "PCM_16"),
        ("SD2", "PCM_16"),
        ("MAT4", "PCM_16"),
        ("MAT5", "PCM_16"),
        ("NIST", "PCM_16"),
        ("VOC", "PCM_16"),
        ("SVX", "PCM_16"),
        ("PAF", "PCM_16"),
        ("IRCAM", "PCM_16"),
        ("WAV", "IMA_ADPCM"),
        ("WAV", "MS_ADPCM"),
        ("WAV", "G721_32"),
        ("WAV", "MPEG_LAYER_III"),
    ],
)
def test_formats_that_nobody_sends_are_refused(tmp_path: Path, container: str, encoding: str) -> None:
    path = tmp_path / "file.wav"
    with contextlib.suppress(soundfile.LibsndfileError):
        write(path, noise(8000, 1), 16_000, container, encoding)
    if not path.exists() or not path.stat().st_size:
        pytest.skip("this libsndfile does not write it")
    expected = "which is not supported" if container == "WAV" else "cannot be read as WAV, FLAC, Ogg or MP3"
    assert expected in refusal(path)


def test_a_name_makes_no_format(tmp_path: Path) -> None:
    for name in ("a.raw", "a.gsm", "a.vox", "a.mp3", "a.sd2", "a.wav"):
        path = tmp_path / name
        path.write_bytes(bytes(noise(2000, 1)))
        assert "cannot be read" in refusal(path)


def test_a_tag_before_another_format_lets_nothing_in(tmp_path: Path) -> None:
    path = write(tmp_path / "a", noise(2000, 1), 8000, "AIFF")
    path.write_bytes(b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10) + path.read_bytes())
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("rate_hz", [1, 999, 768_001, 2_000_000_000])
def test_rates_that_no_audio_has(wav: Path, rate_hz: int) -> None:
    write(wav, noise(100, 1), rate_hz)
    assert "outside of 1000 to 768000 Hz" in refusal(wav)


def test_the_senders_own_files_may_be_of_any_format(tmp_path: Path) -> None:
    original = noise(9000, 1)
    path = write(tmp_path / "a.aiff", original, 8000, "AIFF")
    with MediaFile(path, is_trusted=True) as media:
        assert np.array_equal(samples(list(media.chunks()), 1), original)


def test_no_audio_is_no_chunk(wav: Path) -> None:
    for rate_hz in (8000, 11_025):
        write(wav, noise(0, 2), rate_hz)
        with MediaFile(wav) as media:
            assert list(media.chunks()) == []
