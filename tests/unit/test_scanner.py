"""The scanner: wherever a dump is cut, it says the same, and only a whole dump is whole."""

import hashlib
import re
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncbackup.model import CopyBlock, DumpScan, LargeObject, SequenceValue
from asyncbackup.scanner import Scanner
from asyncbackup.statements import codec

DUMPS = Path(__file__).parents[1] / "data" / "dumps"
REAL = {path.name: path.read_bytes() for path in sorted(DUMPS.glob("pg*.sql"))}
RESTRICT = re.compile(rb"^\\(?:un)?restrict [A-Za-z0-9]+\n", re.MULTILINE)
OLD = re.compile(RESTRICT.pattern + rb"\n", re.MULTILINE)
DATABASES = {name: dump for name, dump in REAL.items() if "globals" not in name}
# As written before \restrict came with 15.14 and its like.
REAL |= {f"{name} without \\restrict": OLD.sub(b"", REAL[name]) for name in ("pg15.sql", "pg15-globals.sql")}

HEAD = b"--\n-- PostgreSQL database dump\n--\n\n\\restrict Key0\n\nSET client_encoding = 'UTF8';\n\n"
TAIL = b"--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict Key0\n\n"
FAKE = b"COPY public.no (a) FROM stdin;\n9\n\\.\n\n" + TAIL

names = pytest.mark.parametrize("name", REAL)


def scan(*chunks: bytes) -> DumpScan:
    scanner = Scanner()
    for chunk in chunks:
        scanner.feed(chunk)
    return scanner.finish()


def whole(body: bytes) -> DumpScan:
    return scan(HEAD + body + TAIL)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def b3(data: bytes) -> str:
    return blake3(data).hexdigest()


# ------------------------------------------------------------------------------------------------
# A second opinion: by lines, over the whole file, led by the comments that pg_dump puts before each
# object. Those comments can be imitated, which is why the scanner is another program than this.

DATA = re.compile(rb"-- Data for Name: .*; Type: (TABLE DATA|BLOBS?); ")
OPEN = re.compile(rb"SELECT pg_catalog\.lo_open\('(\d+)', 131072\);\n")
WRITE = re.compile(rb"SELECT pg_catalog\.lowrite\(0, '\\x([0-9a-f]*)'\);\n")
SETVAL = re.compile(
    rb"SELECT pg_catalog\.setval\('(\w+)\.(\w+|\"(?:[^\"]|\"\")*\")', (\d+), (true|false)\);\n"
)


def unquoted(name: bytes) -> bytes:
    return name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name


def second_opinion(dump: bytes) -> tuple[list[CopyBlock], list[LargeObject], list[SequenceValue], str]:
    lines = re.findall(rb"[^\n]*\n", dump)
    match = re.search(rb"^SET client_encoding = '(\w+)';$", dump, re.MULTILINE)
    encoding = codec(match[1].decode() if match else "UTF8")
    blocks, objects, sequences, outside = [], [], [], []
    first = RESTRICT.search(dump)
    frame = {first[0], first[0].replace(b"\\", b"\\un")} if first else set()
    previous: list[bytes] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line in frame:
            continue
        of_data = len(previous) == 3 and DATA.match(previous[0]) and previous[1:] == [b"--\n", b"\n"]
        if of_data and line.startswith(b"COPY "):
            statement = line
            while not statement.endswith(b" FROM stdin;\n") or statement.count(b'"') % 2:
                statement += lines[at]
                at += 1
            rows = []
            while lines[at] != b"\\.\n":
                rows.append(lines[at])
                at += 1
            at += 1
            outside += [statement, b"\\.\n"]
            words = re.findall(rb'"(?:[^"]|"")*"|[\w\x80-\xff]+', statement[5 : -len(b" FROM stdin;\n")])
            schema, table, *columns = (unquoted(word).decode(encoding) for word in words)
            data = b"".join(rows)
            blocks.append(CopyBlock(
                schema=schema, table=table, columns=tuple(columns),
                rows=len(rows), bytes=len(data), blake3=b3(data),
            ))  # fmt: skip
            previous = []
            continue
        outside.append(line)
        if opened := OPEN.fullmatch(line):
            content = b""
            while not lines[at].startswith(b"SELECT pg_catalog.lo_close("):
                written = WRITE.fullmatch(lines[at])
                if written:
                    content += bytes.fromhex(written[1].decode())
                # What is in the object is in its digest, and nowhere else.
                outside.append(lines[at].replace(written[1], b"") if written else lines[at])
                at += 1
            objects.append(LargeObject(oid=int(opened[1]), bytes=len(content), sha256=sha(content)))
        if found := SETVAL.fullmatch(line):
            schema_, name = (
                unquoted(part.replace(b"''", b"'")).decode(encoding) for part in found.groups()[:2]
            )
            sequences.append(SequenceValue(
                schema=schema_, name=name, last_value=int(found[3]), is_called=found[4] == b"true"
            ))  # fmt: skip
        previous = [*previous[-2:], line]
    return blocks, objects, sequences, b3(b"".join(outside))


@names
def test_a_real_dump_is_whole(name: str) -> None:
    found = scan(REAL[name])
    assert found.problem == ""
    assert found.bytes == len(REAL[name])
    assert found.restricted == (b"\\restrict" in REAL[name])


@pytest.mark.parametrize("name", DATABASES)
def test_a_second_opinion_is_the_same(name: str) -> None:
    found = scan(REAL[name])
    blocks, objects, sequences, outside = second_opinion(REAL[name])
    assert list(found.blocks) == blocks
    assert list(found.large_objects) == objects
    assert list(found.sequences) == sequences
    assert found.outside_blake3 == outside
    assert found.rows == sum(block.rows for block in blocks)


@pytest.mark.parametrize("major", [15, 16, 18])
def test_what_is_known_of_the_source_is_found(major: int) -> None:
    found = scan(REAL[f"pg{major}.sql"])
    assert {(block.schema, block.table): block.rows for block in found.blocks} == {
        ("FROM stdin;", "t (a) FROM stdin;\nx"): 5,
        ("public", "hostile"): 11,
        ("public", "no_column"): 2,
        ("public", "no_row"): 0,
        ("public", "quoted"): 1,
    }
    assert found.blocks[0].columns == ("a, b", 'c"d')
    assert {one.oid: one.bytes for one in found.large_objects} == {4710: 0, 4711: 7, 4712: 4500}
    assert {one.oid: one.sha256 for one in found.large_objects}[4712] == sha(b"it's " * 900)
    assert {(one.name, one.last_value, one.is_called) for one in found.sequences} == {
        ("odd 'seq'", 7, False),
        ("quoted_id_seq", 42, False),
    }
    assert found.encoding == "UTF8"
    assert set(found.roles) == {"postgres", "scan_owner", "scan_reader", 'Scan "odd" to role'}


def test_the_key_of_a_dump_changes_nothing() -> None:
    dump = REAL["pg15.sql"]
    match = RESTRICT.search(dump)
    assert match
    key = match[0].split()[1]
    both = [scan(dump), scan(dump.replace(key, b"AnotherKey"))]
    assert both[0].problem == both[1].problem == ""
    assert both[0].outside_blake3 == both[1].outside_blake3


def test_names_in_another_encoding() -> None:
    (block,) = scan(REAL["pg15-latin1.sql"]).blocks
    assert (block.table, block.columns, block.rows) == ("é", ("ß",), 2)
    assert block.blake3 == b3(b"\xff\na\n")


class TestAnySplit:
    """S1: the verdict does not depend on where the stream is cut."""

    @names
    def test_byte_by_byte(self, name: str) -> None:
        dump = REAL[name]
        assert scan(*(dump[i : i + 1] for i in range(len(dump)))) == scan(dump)

    @names
    @pytest.mark.parametrize("size", [2, 3, 5, 7, 64, 1000])
    def test_even_chunks(self, name: str, size: int) -> None:
        dump = REAL[name]
        assert scan(*(dump[i : i + size] for i in range(0, len(dump), size))) == scan(dump)

    @settings(deadline=None)
    @given(st.sampled_from(sorted(REAL)), st.lists(st.integers(0, 20_000), max_size=40))
    def test_anywhere(self, name: str, cuts: list[int]) -> None:
        dump = REAL[name]
        edges = sorted({0, len(dump), *(cut % len(dump) for cut in cuts)})
        assert scan(*(dump[a:b] for a, b in pairwise(edges))) == scan(dump)

    @given(st.lists(st.sampled_from([
        b"COPY public.t (a) FROM stdin;\n", b"\\.\n", b"\\.", b"\n", b"a", b"'", b"''", b"E'", b'"', b"$$", b"$a$", b"$a",
        b";", b"--", b"-", b"/*", b"*/", b"/", b"*", b"\\", b"\\'", b"BEGIN", b"END;", b"CREATE RULE r AS ", b"(", b")",
        b"SELECT pg_catalog.lowrite(0, '\\x", b"0a", b"f", b"');\n", b"SELECT pg_catalog.lo_open('1', 131072);\n",
        b"SELECT pg_catalog.lo_close(0);\n", b"\\restrict Key0\n", b"\\unrestrict Key0\n",
        b"-- PostgreSQL database dump complete\n", b" ", b"\t", b"\r", b"\xc3\xa9", HEAD, TAIL, FAKE,
    ]), max_size=30), st.data())  # fmt: skip
    @settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.data_too_large])
    def test_even_of_what_is_no_dump_at_all(self, pieces: list[bytes], data: st.DataObject) -> None:
        text = b"".join(pieces)
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=20))
        edges = sorted({0, len(text), *cuts})
        assert scan(*(text[a:b] for a, b in pairwise(edges))) == scan(text)

    def test_a_reused_buffer(self) -> None:
        dump, scanner, buffer = REAL["pg16.sql"], Scanner(), bytearray(997)
        for at in range(0, len(dump), len(buffer)):
            piece = dump[at : at + len(buffer)]
            buffer[: len(piece)] = piece
            scanner.feed(buffer, len(piece))
        assert scanner.finish() == scan(dump)


class TestOnlyAWholeDump:
    """S2: every strict prefix of a dump is incomplete, and so is a dump with anything behind it."""

    @names
    def test_every_prefix(self, name: str) -> None:
        scanner = Scanner()
        for at in range(len(REAL[name])):
            assert scanner.finish().problem, REAL[name][:at][-200:]
            scanner.feed(REAL[name][at : at + 1])
        assert scanner.finish().problem == ""

    @settings(deadline=None)
    @given(st.sampled_from(sorted(REAL)), st.integers(0, 20_000), st.integers(1, 500))
    def test_a_prefix_in_any_chunks(self, name: str, end: int, size: int) -> None:
        prefix = REAL[name][: end % len(REAL[name])]
        assert scan(*(prefix[i : i + size] for i in range(0, len(prefix), size))).problem

    @names
    @pytest.mark.parametrize(
        "more", [b"\n", b"x", b"\0", b";\n", b"-- PostgreSQL database dump complete\n", HEAD + TAIL]
    )
    def test_nothing_may_follow(self, name: str, more: bytes) -> None:
        assert scan(REAL[name] + more).problem
        assert scan(REAL[name], more).problem

    @pytest.mark.parametrize("name", DATABASES)
    def test_a_line_that_is_missing_before_the_end(self, name: str) -> None:
        lines = REAL[name].splitlines(keepends=True)
        for count in range(1, 8):
            assert scan(b"".join(lines[:-count])).problem

    def test_why(self) -> None:
        dump = REAL["pg15.sql"]
        assert scan().problem == "the dump is empty"
        assert scan(b"\n").problem == "the dump lacks its trailer (database dump complete)"
        rows = dump.index(b"COPY public.hostile")
        assert scan(dump[: rows + 60]).problem == "the dump ends inside the rows of public.hostile"
        assert scan(dump[: rows + 10]).problem == "the dump ends inside a statement"
        assert scan(dump[: dump.rindex(b"\\unrestrict")]).problem == "the dump does not end with its trailer"


HIDDEN = [
    pytest.param(b"COPY public.t (a) FROM stdin;\n" + FAKE.replace(b"\\", b"\\\\").replace(b"\n", b"\\n") + b"\n", b"\\.\n", id="rows"),
    pytest.param(b"COPY public.t (a) FROM stdin;\n" + TAIL.replace(b"\\", b"\\\\"), b"\\.\n", id="rows, line by line"),
    pytest.param(b"COMMENT ON TABLE public.t IS 'it''s\n" + FAKE, b"';\n", id="quotes"),
    pytest.param(b"COMMENT ON TABLE public.t IS E'it\\'s\\\\\n" + FAKE.replace(b"\\", b"\\\\"), b"';\n", id="escaped quotes"),
    pytest.param(b'ALTER TABLE public.t OWNER TO "it""s\n' + FAKE, b'";\n', id="identifier"),
    pytest.param(b"CREATE FUNCTION f() AS $$ it's\n" + FAKE, b"$$;\n", id="dollar quotes"),
    pytest.param(b"CREATE FUNCTION f() AS $_2$ $$ $_$ it's\n" + FAKE, b"$_2$;\n", id="tagged dollar quotes"),
    pytest.param(b"/* it's\n" + FAKE, b"*/\n", id="comment"),
    pytest.param(b"CREATE VIEW v AS SELECT 1 /* it's\n" + FAKE, b"*/;\n", id="comment in a statement"),
]  # fmt: skip


class TestHostileText:
    """S3: what looks like rows or a trailer inside of something is only text."""

    @pytest.mark.parametrize(("begin", "end"), HIDDEN)
    def test_it_is_ignored(self, begin: bytes, end: bytes) -> None:
        found = whole(begin + end)
        assert found.problem == ""
        assert {block.table for block in found.blocks} <= {"t"}
        assert found.roles == () or b"OWNER" in begin

    @pytest.mark.parametrize(("begin", "end"), HIDDEN)
    def test_it_does_not_end_a_dump(self, begin: bytes, end: bytes) -> None:
        # The trailer's own text is the last that comes.
        cut = HEAD + begin
        assert scan(cut).problem
        assert scan(cut[: cut.rindex(b"Key0") + 4] + b"\n\n").problem

    @settings(deadline=None)
    @given(st.text("'\"\\$;-/*\n\t.ab( ", max_size=60))
    @example("\\'; -- ")
    def test_any_text_in_quotes_is_text(self, text: str) -> None:
        raw = text.encode()
        plain = b"COMMENT ON TABLE t IS '%b';\n" % raw.replace(b"'", b"''")
        if b"\\" in raw:  # as pg_dump writes it then
            plain = b"COMMENT ON TABLE t IS E'%b';\n" % raw.replace(b"\\", b"\\\\").replace(b"'", b"''")
        name = b'ALTER TABLE t OWNER TO "%b";\n' % (raw.replace(b'"', b'""') or b"x")
        tag = b"$tag$"
        body = b"CREATE FUNCTION f() AS %b%b%b;\n" % (tag, raw, tag)
        found = whole(plain + name + body + b"SELECT pg_catalog.setval('public.s', 5, true);\n")
        assert found.problem == ""
        assert found.blocks == ()
        assert [(s.name, s.last_value) for s in found.sequences] == [("s", 5)]
        assert found.roles == (text or "x",)

    def test_a_body_of_several_statements_is_not_taken_for_pg_dump_s_own(self) -> None:
        body = b"""CREATE FUNCTION f() RETURNS int LANGUAGE sql
    BEGIN ATOMIC
 SELECT pg_catalog.setval('public.s', 9, true);
 SELECT pg_catalog.lo_open('1', 131072);
 SELECT 'COPY public.t (a) FROM stdin;';
END;
"""
        found = whole(body)
        assert (found.problem, found.sequences, found.large_objects, found.blocks) == ("", (), (), ())


class TestRestrict:
    r"""S4: the key at the end is the key at the beginning, once."""

    def test_none_is_fine(self) -> None:
        assert scan(OLD.sub(b"", HEAD + TAIL)).problem == ""

    @pytest.mark.parametrize(
        ("head", "tail", "problem"),
        [
            pytest.param(HEAD, TAIL.replace(b"Key0", b"Key1"), "does not match", id="another key"),
            pytest.param(HEAD, TAIL.replace(b"Key0", b"Key"), "does not match", id="half the key"),
            pytest.param(HEAD, TAIL.replace(b"\\unrestrict Key0\n\n", b""), "does not end with its trailer", id="no end"),
            pytest.param(HEAD.replace(b"\\restrict Key0\n\n", b""), TAIL, "does not match", id="no beginning"),
            pytest.param(HEAD.replace(b"\\restrict Key0\n", b"\\restrict Key0\n" * 2), TAIL, "where none may be", id="begins twice"),
            pytest.param(HEAD, b"\\unrestrict Key0\n" + TAIL, "does not match", id="ends twice"),
            pytest.param(HEAD, b"\\restrict Key0\n" + TAIL, "where none may be", id="late"),
            pytest.param(HEAD, b"\\unrestrict Key0\n", "lacks its trailer", id="no trailer"),
            pytest.param(HEAD, b"\\connect postgres\n" + TAIL, "psql command other than", id="another command"),
            pytest.param(HEAD, b"\\! id\n" + TAIL, "psql command other than", id="shell"),
            pytest.param(HEAD, b"SELECT 1 \\gexec\n" + TAIL, "psql command inside a statement", id="inside a statement"),
            pytest.param(HEAD, b"\\restrict Key-0\n" + TAIL, "psql command other than", id="no key"),
        ],
    )  # fmt: skip
    def test_rejected(self, head: bytes, tail: bytes, problem: str) -> None:
        assert problem in scan(head + tail).problem
        assert problem in scan(*(bytes([byte]) for byte in head + tail)).problem

    @settings(deadline=None)
    @given(st.sampled_from(sorted(DATABASES)), st.integers(0, 62), st.sampled_from([b"0", b"z", b"", b"zz"]))
    def test_a_key_that_differs_anywhere(self, name: str, position: int, instead: bytes) -> None:
        dump = REAL[name]
        at = dump.rindex(b"\\unrestrict ") + len(b"\\unrestrict ") + position
        changed = dump[:at] + instead + dump[at + 1 :]
        assert (scan(changed).problem != "") == (changed != dump)


class TestForms:
    @pytest.mark.parametrize(
        ("statement", "problem"),
        [
            (b"COPY t (a) FROM stdin;\n1\n\\.\n", "COPY statement of an unknown form"),
            (b"COPY public.t (a) FROM '/etc/passwd';\n", "COPY statement of an unknown form"),
            (b"COPY public.t (a) FROM stdin; SELECT 1;\n1\n\\.\n", "COPY statement of an unknown form"),
            (b"SELECT pg_catalog.setval('public.s', x);\n", "setval of an unknown form"),
            (
                b"SELECT pg_catalog.lo_open('1', 131072);\nSELECT pg_catalog.lowrite(0, '\\xzz');\n",
                "not hexadecimal",
            ),
        ],
    )
    def test_what_is_not_understood_is_not_called_good(self, statement: bytes, problem: str) -> None:
        assert problem in whole(statement).problem

    @pytest.mark.parametrize(
        ("rows", "count"),
        [(b"", 0), (b"\n", 1), (b"\n\n", 2), (b"1\n", 1), (b"\\N\n", 1), (b"\\\\.\n.\n", 2)],
    )
    def test_rows(self, rows: bytes, count: int) -> None:
        found = whole(b"COPY public.t (a) FROM stdin;\n" + rows + b"\\.\n")
        assert found.problem == ""
        assert (found.rows, found.blocks[0].bytes, found.blocks[0].blake3) == (count, len(rows), b3(rows))

    @settings(deadline=None)
    @given(
        st.lists(st.binary(max_size=40).filter(lambda row: b"\n" not in row and row != b"\\."), max_size=20),
        st.integers(1, 50),
    )
    def test_any_rows_in_any_chunks(self, rows: list[bytes], size: int) -> None:
        data = b"".join(row + b"\n" for row in rows)
        dump = HEAD + b"COPY public.t (a) FROM stdin;\n" + data + b"\\.\n" + TAIL
        found = scan(*(dump[i : i + size] for i in range(0, len(dump), size)))
        assert (found.problem, found.rows, found.blocks[0].blake3) == ("", len(rows), b3(data))


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"COPY public.t (a) FROM stdin;\n", b"a row\n" * 10_000),
        (b"COPY public.t (a) FROM stdin;\n", b"one endless row " * 4096),
        (b"COMMENT ON TABLE t IS '", b"text " * 13_000),
        (b"CREATE FUNCTION f() AS $$", b"body\n" * 13_000),
        (b"CREATE TABLE t (", b"a int, " * 9_000),
        (b"SELECT pg_catalog.lo_open('1', 131072);\nSELECT pg_catalog.lowrite(0, '\\x", b"00ff" * 16_000),
        (b"-- ", b"an endless comment " * 4_000),
        (b"", b"word" * 16_000),
        (b"/* ", b"comment " * 8_000),
        (b"", b" \n" * 32_000),
    ],
)  # fmt: skip
def test_memory_does_not_grow_with_the_dump(begin: bytes, more: bytes) -> None:
    scanner = Scanner()
    scanner.feed(HEAD + begin)
    tracemalloc.start()
    for _ in range(300):  # 20 MB
        scanner.feed(more)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 << 20
