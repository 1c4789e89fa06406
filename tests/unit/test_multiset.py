"""Rows regardless of their order: what is equal, what is not, and what it costs."""

import gzip
import random
import time
from collections import Counter
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.multiset import Multiset, rows_of

ROWS = st.lists(st.binary(max_size=8).filter(lambda row: b"\n" not in row), max_size=30)


def summed_up(rows: list[bytes], cuts: list[int] | None = None) -> tuple[int, int]:
    data = b"".join(row + b"\n" for row in rows)
    found = Multiset()
    for cut in cuts or []:
        found.add(data[:cut])
        data = data[cut:]
    found.add(data)
    return found.value


@given(rows=ROWS, seed=st.integers(), cuts=st.lists(st.integers(0, 20), max_size=20))
def test_neither_the_order_nor_the_cuts_matter(rows: list[bytes], seed: int, cuts: list[int]) -> None:
    other = list(rows)
    random.Random(seed).shuffle(other)
    assert summed_up(other, cuts) == summed_up(rows)


@given(one=ROWS, other=ROWS)
def test_other_rows_are_another_sum(one: list[bytes], other: list[bytes]) -> None:
    assert (summed_up(one) == summed_up(other)) == (Counter(one) == Counter(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([b"a", b"a", b"b"], [b"a", b"b", b"b"]),
        ([b"ab", b"c"], [b"a", b"bc"]),
        ([b""], []),
        ([b"", b""], [b""]),
        ([b"a\tb"], [b"b\ta"]),
        ([b"\\N"], [b""]),
    ],
)
def test_what_is_nearly_the_same(one: list[bytes], other: list[bytes]) -> None:
    assert summed_up(one) != summed_up(other)


def test_a_row_of_many_pieces_takes_no_longer_than_its_bytes() -> None:
    """A gigabyte may be one row; to join it anew with each piece would take hours."""
    began = time.process_time()
    found = Multiset()
    for _ in range(20_000):
        found.add(b"x" * 10_000)
    found.add(b"\n")
    assert found.rows == 1
    assert time.process_time() - began < 10  # of CPU, of which it takes a fifth of a second; else, minutes


DUMP = b"""--
SET client_encoding = 'UTF8';
COPY public.t (a) FROM stdin;
1
2
\\.

COPY public.root (a) FROM stdin;
3
\\.

COPY public.root (a) FROM stdin;
5
4
\\.

COPY public.other (a) FROM stdin;
1
\\.

INSERT INTO public.t VALUES (9);
"""


def test_a_backups_own_rows_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(gzip.compress(DUMP))
    wanted = frozenset({("public", "t"), ("public", "root"), ("public", "none")})
    with FileIO(tmp_path / "file") as source:
        found = rows_of(source, wanted)
        assert rows_of(source, wanted) == found, "from the beginning, wherever it was left"
    assert {table: rows.value for table, rows in found.items()} == {
        ("public", "t"): summed_up([b"2", b"1"]),
        ("public", "root"): summed_up([b"3", b"4", b"5"]),  # both of its blocks
        ("public", "none"): (0, 0),
    }
