"""A dump told without its tablespaces: nothing else in it changes, wherever it is cut into pieces."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.postgres.retelling import WithoutTablespaces
from asyncbackup.scanner import Scanner

DUMP = b"""--
-- PostgreSQL database dump
--

\\restrict abc123

-- Dumped from database version 15.18

SET statement_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';

CREATE FUNCTION public.f() RETURNS text
    LANGUAGE sql
    AS $$
SELECT '
SET default_tablespace = kept;';
$$;


SET default_tablespace = fast;

SET default_table_access_method = heap;

--
-- Name: t; Type: TABLE; Schema: public; Owner: a; Tablespace: fast
--

CREATE TABLE public.t (
    a text DEFAULT '
SET default_tablespace = kept;'::text
);


SET default_tablespace = "odd ""name"";
with a line end";

COPY public.t (a) FROM stdin;
SET default_tablespace = kept;
\\N
\\.


SET default_tablespace = '';

--
-- PostgreSQL database dump complete
--

\\unrestrict abc123

"""


def told(pieces: list[bytes], *, older_server: bool) -> bytes:
    out = bytearray()
    tap = WithoutTablespaces(out.extend, older_server=older_server)
    scanner = Scanner(tap)
    for piece in pieces:
        scanner.feed(piece)
    assert scanner.finish().problem == ""
    tap.finish()
    return bytes(out)


def expected(*, older_server: bool) -> bytes:
    without = DUMP.replace(b"SET default_tablespace = fast;", b"SET default_tablespace = '';")
    without = re.sub(
        rb'SET default_tablespace = "odd[^;]*;\nwith a line end";', b"SET default_tablespace = '';", without
    )
    if older_server:
        without = without.replace(b"\nSET transaction_timeout = 0;", b"\n")
    return re.sub(rb"(?m)^\\(un)?restrict .*\n", b"", without)


@pytest.mark.parametrize("older", ["", "older"])
@given(cuts=st.lists(st.integers(0, len(DUMP)), max_size=12))
def test_only_tablespaces_go(older: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(DUMP)]
    found = told([DUMP[a:b] for a, b in pairwise(edges)], older_server=bool(older))
    assert found == expected(older_server=bool(older))


def test_a_long_statement_is_passed_on_while_it_comes() -> None:
    long = b"CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$" + b"x" * 200_000 + b"$$;\n"
    head = b"--\n-- PostgreSQL database dump\n--\n\n"
    out = bytearray()
    tap = WithoutTablespaces(out.extend, older_server=False)
    scanner = Scanner(tap)
    scanner.feed(head + long[:150_000])
    assert len(out) > 100_000
    scanner.feed(long[150_000:] + b"SET default_tablespace = x;\n")
    tap.finish()
    assert bytes(out).startswith(head + long)
    assert bytes(out).endswith(b"SET default_tablespace = '';\n")
