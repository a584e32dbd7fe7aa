"""Products of matrices are what they should be, whatever their shapes and their layout in memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.products import Float32, product


def room(rows: Float32, columns: Float32) -> Float32:
    """Memory that holds no numbers."""
    return np.full((len(rows), columns.shape[1]), np.nan, np.float32)


@given(n=st.integers(1, 70), d=st.integers(1, 300), m=st.integers(1, 130), seed=st.integers(0, 1000))
def test_a_product_is_that_of_doubles(n: int, d: int, m: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, columns = (generator.standard_normal(shape).astype(np.float32) for shape in ((n, d), (d, m)))
    found = product(rows, columns, room(rows, columns))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rows.astype(np.float64) @ columns, rtol=0, atol=1e-5 * d)


@pytest.mark.parametrize("count", [4, 200])
def test_matrices_with_gaps_and_turned_ones_are_read_as_they_are(count: int) -> None:
    whole = np.random.default_rng(0).standard_normal((200, 10)).astype(np.float32)
    rows, columns = whole[:6:2, 3:8], whole[:count, :5].T
    np.testing.assert_allclose(product(rows, columns, room(rows, columns)), rows @ columns, rtol=0, atol=1e-5)


@pytest.mark.parametrize("columns", [2, 200])
def test_matrices_that_do_not_fit_are_refused(columns: int) -> None:
    rows, wrong = np.ones((2, 3), np.float32), np.ones((4, columns), np.float32)
    with pytest.raises(Exception, match=r"dimension|aligned"):
        product(rows, wrong, room(rows, wrong))
