"""Batches: everyone gets their own rows, nobody waits for ever, and what fails together is tried alone."""

import concurrent.futures
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.batching import Batcher
from pipeline.models.convert_campplus import add_lengths
from pipeline.models.execution import Execution
from pipeline.models.models import ModelSet
from pipeline.models.session import Session
from pipeline.models.verification import reference_signal

FloatArray = npt.NDArray[np.float32]

LONG_S = 30.0  # nobody waits for so long here: a group is full before
THREADS = 8


class Doubling:
    """Doubles its rows, and remembers how many there were in each run; a row of `poison` fails its run."""

    poison = -1.0

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._lock = threading.Lock()

    def __call__(self, features: FloatArray) -> FloatArray:
        with self._lock:
            self.rows.append(len(features))
        if (features == self.poison).any():
            raise ValueError("poison")
        return features * 2


def all_at_once(batcher: Batcher, inputs: list[FloatArray]) -> list[FloatArray | Exception]:
    def one(features: FloatArray) -> FloatArray | Exception:
        try:
            return batcher.run(features)
        except ValueError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(max(1, len(inputs))) as pool:
        return list(pool.map(one, inputs))


@settings(deadline=None, max_examples=50)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=24),
    most=st.integers(2, 6),
    wait_s=st.sampled_from([0.0, 0.001, 0.01]),
)
def test_everyone_gets_their_own_rows(shapes: list[tuple[int, int]], most: int, wait_s: float) -> None:
    inputs = [np.full(shape, number, np.float32) for number, shape in enumerate(shapes)]
    run = Doubling()
    outputs = all_at_once(Batcher(run, most, wait_s), inputs)
    for features, output in zip(inputs, outputs, strict=True):
        assert isinstance(output, np.ndarray)
        np.testing.assert_array_equal(output, features * 2)
    assert sum(run.rows) == sum(rows for rows, _ in shapes)  # each was run once
    assert max(run.rows) <= most * 3


def test_a_full_group_does_not_wait() -> None:
    run = Doubling()
    all_at_once(Batcher(run, THREADS, LONG_S), [np.ones((1, 4), np.float32)] * THREADS)
    assert run.rows == [THREADS]


def test_whoever_finds_nobody_goes_alone() -> None:
    run = Doubling()
    output = Batcher(run, THREADS, 0.01).run(np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(output, np.full((2, 4), 2, np.float32))
    assert run.rows == [2]


def test_what_fails_together_is_tried_alone() -> None:
    inputs = [np.full((1, 4), number, np.float32) for number in range(THREADS - 1)]
    inputs.append(np.full((1, 4), Doubling.poison, np.float32))
    *good, bad = all_at_once(Batcher(Doubling(), THREADS, LONG_S), inputs)
    assert isinstance(bad, ValueError)
    for features, output in zip(inputs, good, strict=False):
        assert isinstance(output, np.ndarray)
        np.testing.assert_array_equal(output, features * 2)


def test_a_model_that_gives_other_rows_than_it_got_is_no_batch(caplog: pytest.LogCaptureFixture) -> None:
    def first_row(features: FloatArray) -> FloatArray:
        return features[:1] * 2

    for _ in range(2):
        inputs = [np.full((1, 4), number, np.float32) for number in range(THREADS)]
        batcher = Batcher(first_row, THREADS, LONG_S)
        for features, output in zip(inputs, all_at_once(batcher, inputs), strict=True):
            np.testing.assert_array_equal(np.asarray(output), features * 2)
    assert (
        "8 utterances cannot share a run of a model, so each has its own; lower CALLSTREAM_INFERENCE_BATCH: 1 rows came of 8"
        in caplog.text
    )


@given(count=st.integers(1, 10**7))
def test_lengths_are_few_and_at_most_an_eighth_longer(count: int) -> None:
    length = Execution(batch=2).length(count)
    assert count <= length <= count + count // 8
    assert Execution(batch=2).length(length) == length
    assert Execution().length(count) == count


def test_lengths_of_an_octave_are_eight() -> None:
    assert len({Execution(batch=2).length(count) for count in range(1025, 2049)}) == 8


@pytest.fixture(scope="module")
def batched(cache_dir: Path) -> ModelSet:
    return ModelSet.load(cache_dir, "tiny", execution=Execution(batch=4, wait_s=LONG_S))


@pytest.mark.parametrize("role", ["speaker", "voice", "language"])
def test_company_changes_nothing(batched: ModelSet, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """Four voices of about one length in one run give what each gives when it finds nobody, to the last bit."""
    sizes, run_together = [], Batcher._run_together

    def noted(batcher: Batcher, asked: list[Any]) -> None:
        sizes.append(len(asked))
        run_together(batcher, asked)

    monkeypatch.setattr(Batcher, "_run_together", noted)
    lonely = ModelSet.load(cache_dir, "tiny", execution=Execution(batch=4))
    signal = reference_signal()
    pieces = [np.roll(signal, 4000 * number)[: 20_300 + number] * np.float32(0.1 + 0.3 * number) for number in range(4)]

    def of(models: ModelSet, piece: FloatArray) -> FloatArray:
        if role == "language":
            return models.language.log_posteriors(piece)
        return (models.speaker if role == "speaker" else models.voice).embed(piece)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda piece: of(batched, piece), pieces))
    assert sizes == [4]
    for piece, output in zip(pieces, together, strict=True):
        np.testing.assert_array_equal(output, of(lonely, piece))


@pytest.mark.parametrize("count", [1, 2000, 20_300, 65_000])
def test_what_fills_up_a_batch_is_not_heard(cache_dir: Path, models: ModelSet, count: int) -> None:
    voice = np.roll(reference_signal(), 5000)[:count]
    batched = ModelSet.load(cache_dir, "tiny", execution=Execution(batch=4)).speaker.embed(voice)
    np.testing.assert_allclose(batched, models.speaker.embed(voice), rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(10, 230), min_size=1, max_size=4), more=st.integers(0, 60), seed=st.integers(0, 2**32 - 1))
def test_lengths_say_what_counts(graphs: tuple[Session, Session], lengths: list[int], more: int, seed: int) -> None:
    plain, with_lengths = graphs
    rows = np.random.default_rng(seed).standard_normal((len(lengths), max(lengths) + more, 80)).astype(np.float32)
    found = with_lengths.run(rows, np.array(lengths, np.float32))
    for row, length, one in zip(rows, lengths, found, strict=True):
        np.testing.assert_allclose(one, plain.run(row[np.newaxis, :length])[0], rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def graphs(cache_dir: Path, models: ModelSet) -> tuple[Session, Session]:
    """CAM++ as it is, and with lengths."""
    path = cache_dir / "models" / "campplus.onnx"
    return Session(path, ["features"], "embedding"), Session(path, ["features", "lengths"], "embedding", rewrite=add_lengths)
