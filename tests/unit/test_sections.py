"""A dump taken apart: nothing is lost, wherever it is cut, and each piece can stand alone."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.postgres.sections import Objects, Piece, Rows, Sections, Statement
from asyncbackup.scanner import Scanner

DUMPS = {
    path.name: path.read_bytes()
    for path in sorted((Path(__file__).parents[1] / "data" / "dumps").glob("pg*.sql"))
}
HEAD = b"--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\nSET xmloption = content;\n\n"


def pieces(*chunks: bytes, **options: object) -> list[Piece]:
    found: list[Piece] = []
    scanner = Scanner(Sections(found.append, **options))  # type: ignore[arg-type]
    for chunk in chunks:
        scanner.feed(chunk)
    scanner.finish()
    return found


def statements(found: list[Piece]) -> list[bytes]:
    return [piece.text for piece in found if isinstance(piece, Statement)]


def rows(found: list[Piece]) -> dict[tuple[str, str], bytes]:
    whole: dict[tuple[str, str], bytes] = {}
    for piece in found:
        if isinstance(piece, Rows):
            whole[piece.table] = whole.get(piece.table, b"") + piece.data
    return whole


@pytest.mark.parametrize("name", DUMPS)
@settings(deadline=None)
@given(cuts=st.lists(st.integers(1, 5000), max_size=30), chunk=st.sampled_from([1, 20, 300, 1 << 20]))
def test_nothing_is_lost_wherever_it_is_cut(name: str, cuts: list[int], chunk: int) -> None:
    text = DUMPS[name]
    at, chunks = 0, []
    for cut in cuts:
        chunks.append(text[at : at + cut])
        at += cut
    found = pieces(*chunks, text[at:], chunk=chunk)
    whole = pieces(text)
    assert statements(found) == statements(whole)
    assert rows(found) == rows(whole)
    scanner = Scanner()
    scanner.feed(text)
    scan = scanner.finish()
    for table, data in rows(whole).items():
        blocks = [block for block in scan.blocks if (block.schema, block.table) == table]
        assert len(data) == sum(block.bytes for block in blocks)
        assert data.count(b"\n") == sum(block.rows for block in blocks)
    assert {(block.schema, block.table) for block in scan.blocks} == set(rows(whole))
    assert all(not piece.data or piece.data.endswith(b"\n") for piece in found if isinstance(piece, Rows))
    # Every word that is neither rows, nor a comment, nor psql's, nor a setting is in some statement.
    left = re.sub(rb"^COPY [^;]* FROM stdin;\n(?:.*\n)*?\\\.\n", b"", text, flags=re.MULTILINE)
    assert b"".join(statements(whole)).count(b"CREATE ") >= left.count(b"\nCREATE ")


def test_rows_come_in_pieces_of_the_size_that_is_wanted() -> None:
    lines = b"".join(b"%d\tabcdefghij\n" % number for number in range(10_000))
    text = HEAD + b"COPY public.t (a, b) FROM stdin;\n" + lines + b"\\.\n\n"
    found = [piece for piece in pieces(text[:70_000], text[70_000:], chunk=1000) if isinstance(piece, Rows)]
    assert b"".join(piece.data for piece in found) == lines
    assert len(found) <= 4  # no smaller than what the scanner hands on
    small = [text[at : at + 100] for at in range(0, len(text), 100)]
    found = [piece for piece in pieces(*small, chunk=1000) if isinstance(piece, Rows)]
    assert b"".join(piece.data for piece in found) == lines
    assert all(1000 <= len(piece.data) < 1200 for piece in found[:-1])
    assert {piece.columns for piece in found} == {("a", "b")}
    assert 9_000 < sum(piece.count for piece in found) < 11_000


def test_a_long_row_comes_whole_and_does_not_hold_back_those_before_it() -> None:
    lines = [b"short\n", b"x" * 50_000 + b"\n", b"after\n"]
    text = HEAD + b"COPY public.t (a) FROM stdin;\n" + b"".join(lines) + b"\\.\n\n"
    small = [text[at : at + 100] for at in range(0, len(text), 100)]
    found = [piece.data for piece in pieces(*small, chunk=1000) if isinstance(piece, Rows)]
    assert b"".join(found) == b"".join(lines)
    assert found[0] == b"short\n"


def test_a_table_without_rows_has_its_piece_too() -> None:
    found = pieces(HEAD + b"COPY public.t  FROM stdin;\n\\.\n\nCOPY public.u (a) FROM stdin;\n\\.\n\n")
    assert [(piece.table, piece.columns, piece.data) for piece in found if isinstance(piece, Rows)] == [
        (("public", "t"), (), b""),
        (("public", "u"), ("a",), b""),
    ]


def test_settings_go_with_every_piece_from_where_they_stand() -> None:
    found = pieces(
        HEAD,
        b"SELECT pg_catalog.set_config('search_path', '', false);\n"
        b"SET default_tablespace = fast;\nCREATE TABLE public.a ();\n"
        b"SET default_tablespace = '';\nCREATE TABLE public.b ();\n"
        b"SET SESSION AUTHORIZATION somebody;\nGRANT ALL ON TABLE public.a TO PUBLIC;\nRESET SESSION AUTHORIZATION;\n"
        b"COPY public.a (a) FROM stdin;\n1\n\\.\n",
    )
    assert statements(found) == [
        b"CREATE TABLE public.a ();",
        b"CREATE TABLE public.b ();",
        b"GRANT ALL ON TABLE public.a TO PUBLIC;",
    ]
    a, b, grant, copied = (piece.settings for piece in found)
    assert a == {
        "client_encoding": b"SET client_encoding = 'UTF8';",
        "xmloption": b"SET xmloption = content;",
        "search_path": b"SELECT pg_catalog.set_config('search_path', '', false);",
        "default_tablespace": b"SET default_tablespace = fast;",
    }
    assert b["default_tablespace"] == b"SET default_tablespace = '';"
    assert grant["session_authorization"] == b"SET SESSION AUTHORIZATION somebody;"
    assert copied["session_authorization"] == b"RESET SESSION AUTHORIZATION;"


def test_settings_can_be_left_out() -> None:
    text = HEAD + b"SET transaction_timeout = 0;\nSET default_tablespace = fast;\nCREATE TABLE public.a ();\n"
    (found,) = pieces(text, leave_out={"transaction_timeout", "default_tablespace"})
    assert set(found.settings) == {"client_encoding", "xmloption"}


def test_what_only_looks_like_a_setting_of_the_session_is_a_statement() -> None:
    others = [
        b"SET CONSTRAINTS ALL DEFERRED;",
        b"SET LOCAL work_mem = 1;",
        b"RESET ALL;",
        b"SELECT pg_catalog.set_config('work_mem', '1', true);",
        b"SELECT pg_catalog.setval('public.s', 1, false);",
    ]
    assert statements(pieces(HEAD, b"\n".join(others) + b"\n")) == others


def test_a_body_with_semicolons_is_one_statement_with_what_it_belongs_to() -> None:
    bodies = [
        (
            b"CREATE FUNCTION public.f(a text DEFAULT '\n    BEGIN ATOMIC\n') RETURNS integer\n    LANGUAGE sql\n"
            b"    BEGIN ATOMIC\n SELECT '\nEND;';\n SELECT\n         CASE\n             WHEN true THEN 1\n"
            b'             ELSE 2\n         END AS "case";\nEND;'
        ),
        b"CREATE PROCEDURE public.p()\n    LANGUAGE sql\n    BEGIN ATOMIC\nEND;",
        b"CREATE FUNCTION public.g() RETURNS text\n    LANGUAGE sql\n    AS $_$\n    BEGIN ATOMIC\n SELECT ((';$_$;",
        b"CREATE FUNCTION public.h() RETURNS text\n    LANGUAGE sql\n    AS E'\\\\'' ((;';",
        (
            b"CREATE RULE several AS\n    ON INSERT TO public.t DO ALSO ( INSERT INTO public.u (a)\n  VALUES (')');\n"
            b" DELETE FROM public.v;\n);"
        ),
        b"CREATE TABLE public.t ();",
    ]
    assert statements(pieces(HEAD, b"\n\n".join(bodies) + b"\n")) == bodies


def test_entries_say_what_a_statement_is_about() -> None:
    found = pieces(
        HEAD,
        b"--\n-- Name: t; Type: TABLE; Schema: public; Owner: me\n--\n\nCREATE TABLE public.t ();\n\n\n"
        b"ALTER TABLE public.t OWNER TO me;\n\n"
        b"--\n-- Name: plpgsql; Type: EXTENSION; Schema: -; Owner: -\n--\n\nCREATE EXTENSION plpgsql;\n",
    )
    assert [piece.entry for piece in found if isinstance(piece, Statement)] == [
        "TABLE public.t",
        "TABLE public.t",
        "EXTENSION plpgsql",
    ]


# ------------------------------------------------------------------------------------------------
# Large objects


def lo_dump(*objects: tuple[int, list[bytes]]) -> bytes:
    text = b"BEGIN;\n\n"
    for oid, writes in objects:
        text += b"SELECT pg_catalog.lo_open('%d', 131072);\n" % oid
        text += b"".join(b"SELECT pg_catalog.lowrite(0, '\\x%b');\n" % data.hex().encode() for data in writes)
        text += b"SELECT pg_catalog.lo_close(0);\n\n"
    return text + b"COMMIT;\n\n"


def written(found: list[Piece]) -> dict[int, bytes]:
    """Do what the server would do with pieces, and hold each to its promises."""
    objects: dict[int, bytearray] = {}
    pages: dict[tuple[int, int], int] = {}
    for number, piece in enumerate(found):
        assert isinstance(piece, Objects)
        opened: int | None = None
        at = 0
        for call in re.findall(rb"SELECT pg_catalog\.(\w+)\(([^)]*)\);", piece.text):
            match call:
                case (b"lo_open", what):
                    assert opened is None
                    opened, at = int(what.split(b"'")[1]), 0
                    objects.setdefault(opened, bytearray())
                case (b"lo_lseek64", what):
                    at = int(what.split(b",")[1])
                    assert what == b"0, %d, 0" % at
                case (b"lowrite", what):
                    assert opened is not None
                    data = bytes.fromhex(what.partition(b"\\x")[2][:-1].decode())
                    content = objects[opened]
                    content.extend(bytes(max(0, at + len(data) - len(content))))
                    content[at : at + len(data)] = data
                    for page in range(at // 2048, -(-(at + len(data)) // 2048)):
                        assert pages.setdefault((opened, page), number) == number
                    at += len(data)
                case (b"lo_close", b"0"):
                    opened = None
                case _:
                    raise AssertionError(call)
        assert opened is None
    return {oid: bytes(content) for oid, content in objects.items()}


@given(
    sizes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 16384)), min_size=1, max_size=6),
    chunk=st.sampled_from([1, 5000, 40_000, 10**6]),
    cut=st.integers(50, 20_000),
)
@settings(deadline=None)
def test_large_objects_are_whole_whoever_writes_which_piece(
    sizes: list[tuple[int, int]], chunk: int, cut: int
) -> None:
    objects = []
    for oid, (full, rest) in enumerate(sizes, 5000):
        writes = [bytes([oid % 251, number % 251]) * 8192 for number in range(full)]
        objects.append((oid, [*writes, b"\x07" * rest] if rest else writes))
    text = HEAD + lo_dump(*objects)
    chunks = [text[at : at + cut] for at in range(0, len(text), cut)]
    assert written(pieces(*chunks, chunk=chunk)) == {oid: b"".join(writes) for oid, writes in objects}


def test_a_piece_never_ends_inside_of_a_page() -> None:
    odd = [b"a" * 16384, b"b" * 100, b"c" * 16384, b"d" * 16284, b"e" * 50]
    assert written(pieces(HEAD, lo_dump((5000, odd)), chunk=1)) == {5000: b"".join(odd)}


def test_a_transaction_of_anything_else_stays_one() -> None:
    text = [b"BEGIN;", b"DELETE FROM public.t;", b"COMMIT;"]
    assert statements(pieces(HEAD, b"\n".join(text) + b"\n")) == text
    text = [b"BEGIN;", b"BEGIN;", b"COMMIT;"]
    assert statements(pieces(HEAD, b"\n".join(text) + b"\n")) == text


def test_what_follows_large_objects_follows_them() -> None:
    found = pieces(HEAD, lo_dump((5000, [b"x"])), lo_dump((5001, [b"y"])), b"CREATE TABLE public.t ();\n")
    assert [type(piece) for piece in found] == [Objects, Objects, Statement]
    assert all(before.settings is after.settings for before, after in pairwise(found))
