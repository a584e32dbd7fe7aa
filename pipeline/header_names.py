"""Reads records whose header names are not UTF-8, which aiokafka cannot.

Kafka takes any bytes as a header's name, and some clients send them (kcat, Go's). aiokafka raises UnicodeDecodeError at such a
record, again and again: whoever reads its partition would never get past it. Here such a byte is
spelt with a backslash, x and two digits.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


class _Spelt(bytearray):
    """Bytes whose slices can always be read as text."""

    def __getitem__(self, at: Any) -> Any:  # noqa: ANN401 - of bytearray
        found = super().__getitem__(at)
        return _Spelt(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _SpeltBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # final, but nobody else has its reader
    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Spelt(self._buffer)


class _Batch:
    """A batch as aiokafka reads it, as far as it can."""

    def __init__(self, batch: Any, piece: Any) -> None:  # noqa: ANN401 - aiokafka's
        self._batch, self._piece = batch, piece

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._batch:
                read += 1
                yield record
        except UnicodeDecodeError:
            yield from itertools.islice(_SpeltBatch(self._piece), read, None)


class _Records(_MemoryRecordsPy):  # type: ignore[misc]
    def next_batch(self, *_: Any) -> Any:  # noqa: ANN401
        piece = self._next_slice
        batch = super().next_batch()
        return _Batch(batch, piece) if isinstance(batch, DefaultRecordBatch) else batch


def tolerate() -> None:
    """From now on every consumer of aiokafka reads them."""
    fetcher.MemoryRecords = _Records  # type: ignore[attr-defined]  # imported there
