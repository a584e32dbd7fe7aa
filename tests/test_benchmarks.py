"""What benchmarks print, as JSON."""

from benchmarks.everything import tables

PRINTED = """A machine, 2 cores

| calls | CPU of the core |
|---|---|
| 20 | 31% |
| 40 | 59% |

and more: 3.4 s

| what | time |
| :-- | --: |
| one | 1.0 |
"""


def test_tables_are_read_row_by_row() -> None:
    assert list(tables(PRINTED)) == [
        [{"calls": "20", "CPU of the core": "31%"}, {"calls": "40", "CPU of the core": "59%"}],
        [{"what": "one", "time": "1.0"}],
    ]


def test_text_without_tables_has_none() -> None:
    assert list(tables("nothing measured\n| not a table |\n")) == []
