import base64
import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.comparison import compare
from pipeline.scoring.gender import gender_scores
from pipeline.scoring.voiceprint import (
    DIMENSION,
    EMPTY,
    SIZE_BYTES,
    SPEAKER_DIMENSION,
    Voiceprint,
    VoiceprintError,
    VoiceprintSum,
    decode,
    decode_all,
    encode,
    from_embeddings,
    pack,
    unit,
    unpack,
)

seeds = st.integers(0, 2**32 - 1)


def random_voiceprint(seed: int, speech_s: float = 3.0) -> Voiceprint:
    random = np.random.default_rng(seed)
    speaker, voice = random.standard_normal(192), random.standard_normal(256)
    return from_embeddings(speaker.astype(np.float32), voice.astype(np.float32), speech_s)


@given(seeds, st.floats(1e-7, 65_504))
def test_unpacking_gives_the_bits_of_unit(seed: int, largest: float) -> None:
    values = (np.random.default_rng(seed).uniform(-1, 1, DIMENSION) * largest).astype(np.float16)
    found = unpack(pack(Voiceprint(values.astype(np.float32), 1.0))).embedding
    halves = values[:SPEAKER_DIMENSION], values[SPEAKER_DIMENSION:]
    assert found.tobytes() == b"".join(unit(half.astype(np.float32)).tobytes() for half in halves)


@given(seeds, st.floats(0, 4_000_000))
def test_a_voiceprint_survives_packing(seed: int, speech_s: float) -> None:
    made = random_voiceprint(seed, speech_s)
    read = decode(encode(made))
    assert len(pack(made)) == SIZE_BYTES
    assert np.abs(read.embedding - made.embedding).max() < 1e-3
    assert abs(read.speech_s - speech_s) <= 0.0005 + 1e-9
    for half in (read.embedding[:192], read.embedding[192:]):
        assert np.linalg.norm(half) == pytest.approx(1, abs=1e-5)


def test_an_empty_voiceprint_survives_packing() -> None:
    assert not unpack(pack(EMPTY)).embedding.any()


@given(st.binary(max_size=2 * SIZE_BYTES))
def test_other_bytes_are_refused_with_one_kind_of_error(packed: bytes) -> None:
    with pytest.raises(VoiceprintError):
        unpack(packed)


@given(st.text(max_size=3000))
def test_other_text_is_refused_with_one_kind_of_error(text: str) -> None:
    with pytest.raises(VoiceprintError):
        decode(text)


@given(st.integers(0, SIZE_BYTES - 1), st.integers(1, 255), seeds)
def test_a_damaged_voiceprint_is_refused_or_still_finite(at: int, flip: int, seed: int) -> None:
    packed = bytearray(pack(random_voiceprint(seed)))
    packed[at] ^= flip
    with contextlib.suppress(VoiceprintError):
        assert np.isfinite(unpack(bytes(packed)).embedding).all()


@given(st.lists(st.tuples(seeds, st.floats(1e-7, 65_504), st.floats(0, 4_000_000)), min_size=1, max_size=20))
def test_many_are_read_to_the_bits_of_one_by_one(parts: list[tuple[int, float, float]]) -> None:
    texts = [encode(EMPTY)]
    for seed, largest, speech_s in parts:
        values = (np.random.default_rng(seed).uniform(-1, 1, DIMENSION) * largest).astype(np.float16)
        texts.append(encode(Voiceprint(values.astype(np.float32), speech_s)))
    for text, one in zip(texts, decode_all(texts), strict=True):
        alone = decode(text)
        assert (one.embedding.tobytes(), one.speech_s) == (alone.embedding.tobytes(), alone.speech_s)


@given(seeds, st.integers(0, SIZE_BYTES - 1), st.integers(1, 255), st.integers(0, 1300), st.text(max_size=3))
def test_many_are_refused_when_one_of_them_is(seed: int, at: int, flip: int, cut: int, inserted: str) -> None:
    packed = bytearray(pack(random_voiceprint(seed)))
    packed[at] ^= flip
    text = base64.b64encode(packed).decode()
    for damaged in (text, text[:cut] + inserted + text[cut:], text[:cut]):
        try:
            decode(damaged)
        except VoiceprintError:
            with pytest.raises(ValueError):  # noqa: PT011 (whichever it is, they are read one by one then)
                decode_all([encode(EMPTY), damaged])


@given(st.lists(st.tuples(seeds, st.floats(0.1, 100)), min_size=1, max_size=6))
def test_merging_weighs_by_speech_and_adds_lengths(parts: list[tuple[int, float]]) -> None:
    total = VoiceprintSum()
    for seed, speech_s in parts:
        total.add(random_voiceprint(seed, speech_s))
    mean = np.sum([random_voiceprint(seed).embedding.astype(float) * speech_s for seed, speech_s in parts], axis=0)
    expected = from_embeddings(np.asarray(mean[:192], np.float32), np.asarray(mean[192:], np.float32), 0)
    assert np.abs(total.merged().embedding - expected.embedding).max() < 2e-3
    assert total.merged().speech_s == pytest.approx(sum(speech_s for _, speech_s in parts), abs=0.001)


@given(seeds)
def test_a_merged_voiceprint_is_what_is_sent_to_the_last_bit(seed: int) -> None:
    total = VoiceprintSum()
    total.add(random_voiceprint(seed))
    assert np.array_equal(decode(encode(total.merged())).embedding, total.merged().embedding)


def test_nan_in_base64_is_refused() -> None:
    for value in (np.nan, np.inf):
        packed = pack(Voiceprint(np.full(DIMENSION, value, np.float32), 1.0))
        with pytest.raises(VoiceprintError, match="finite"):
            decode(base64.b64encode(packed).decode())


@given(st.integers(1, 5), st.integers(1, 5), seeds)
def test_comparison_is_row_major_with_a_as_columns(columns: int, rows: int, seed: int) -> None:
    a = [random_voiceprint(seed + n) for n in range(columns)]
    b = [random_voiceprint(seed + 100 + n) for n in range(rows)]
    scores = compare(a, b)
    assert (scores.columns_count, scores.rows_count, len(scores.values)) == (columns, rows, columns * rows)
    for row in range(rows):
        for column in range(columns):
            alone = compare([a[column]], [b[row]]).values[0]
            assert scores.values[row * columns + column] == pytest.approx(alone, abs=1e-3)


def test_no_speech_is_undecided_and_has_no_gender() -> None:
    one = random_voiceprint(1)
    assert compare([EMPTY, one], [one]).values[0] == 0
    assert compare([EMPTY, one], [one]).values[1] > 0
    assert gender_scores([EMPTY, one])[0] is None


@given(seeds)
def test_gender_probabilities_sum_to_one_and_llrs_are_opposite(seed: int) -> None:
    (pair,) = gender_scores([random_voiceprint(seed)])
    assert pair is not None
    male, female = pair
    assert round(male.probability + female.probability, 9) == 1
    assert male.score_llr == -female.score_llr
    assert (male.score_llr > 0) == (male.probability > 0.5) or male.probability == 0.5
