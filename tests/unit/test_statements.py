"""Single statements in pg_dump's own form: names as PostgreSQL has them, roles, encodings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup import statements
from asyncbackup.model import SequenceValue

any_name = st.text(min_size=1, max_size=63).filter(lambda name: "\0" not in name and is_utf8(name))
ENCODINGS = [
    ("UTF8", "日本"), ("LATIN1", "éÿ"), ("LATIN2", "ł"), ("LATIN9", "€"), ("KOI8R", "ж"), ("KOI8U", "ї"), ("WIN866", "Я"),
    ("WIN874", "ก"), ("WIN1250", "š"), ("WIN1251", "Ю"), ("WIN1252", "™"), ("WIN1258", "₫"), ("ISO_8859_7", "λ"),
    ("EUC_JP", "日本"), ("EUC_KR", "한"), ("EUC_CN", "中"), ("EUC_JIS_2004", "日"),
]  # fmt: skip


def is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def quoted(name: str, encoding: str = "utf-8") -> bytes:
    return b'"%b"' % name.encode(encoding).replace(b'"', b'""')


class TestCopy:
    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("COPY public.t (a, b) FROM stdin;", ("public", "t", ("a", "b"))),
            ("COPY public.t  FROM stdin;", ("public", "t", ())),
            ("COPY public.t FROM stdin;", ("public", "t", ())),
            ('COPY "a.b"."c.d" ("e, f", "(g)") FROM stdin;', ("a.b", "c.d", ("e, f", "(g)"))),
            (
                'COPY "quo""te"."FROM stdin;" ("""", "x FROM stdin;") FROM stdin;',
                ('quo"te', "FROM stdin;", ('"', "x FROM stdin;")),
            ),
            ('COPY "new\nline"."\\." ("col\numn") FROM stdin;', ("new\nline", "\\.", ("col\numn",))),
            ("COPY öffentlich.tür (größe_1$) FROM stdin;", ("öffentlich", "tür", ("größe_1$",))),
        ],
    )
    def test_form(self, statement: str, expected: tuple[str, str, tuple[str, ...]]) -> None:
        assert statements.copy(statement.encode(), "UTF8") == expected

    @settings(deadline=None)
    @given(any_name, any_name, st.lists(any_name, max_size=5))
    def test_any_names(self, schema: str, table: str, columns: list[str]) -> None:
        listed = b"(%b) " % b", ".join(map(quoted, columns)) if columns else b" "
        statement = b"COPY %b.%b %bFROM stdin;" % (quoted(schema), quoted(table), listed)
        assert statements.copy(statement, "UTF8") == (schema, table, tuple(columns))

    @pytest.mark.parametrize(
        "statement",
        [
            "COPY t FROM stdin;",
            "COPY public.t TO stdout;",
            "COPY public.t (a) FROM stdin WITH CSV;",
            "COPY public.t (a) FROM '/etc/passwd';",
            "COPY public.t (a) FROM PROGRAM 'id';",
            "COPY public.t (a) FROM stdin; COPY public.t (a) FROM stdin",
            'COPY public."t (a) FROM stdin;',
            "copy public.t (a) from stdin;",
        ],
    )
    def test_other_forms_are_none(self, statement: str) -> None:
        assert statements.copy(statement.encode(), "UTF8") is None


class TestSetval:
    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("public.s', 42, true", SequenceValue(schema="public", name="s", last_value=42, is_called=True)),
            ("public.s', -300, false", SequenceValue(schema="public", name="s", last_value=-300, is_called=False)),
            (
                """"it''s.a"."se""q''\n2"', 9223372036854775807, true""",
                SequenceValue(schema="it's.a", name="se\"q'\n2", last_value=2**63 - 1, is_called=True),
            ),
        ],
    )  # fmt: skip
    def test_form(self, statement: str, expected: SequenceValue) -> None:
        assert statements.setval(f"SELECT pg_catalog.setval('{statement});".encode(), "UTF8") == expected

    @pytest.mark.parametrize(
        "statement", ["s', 1, true", "public.s', x, true", "public.s', 1", "a.b.c', 1, true"]
    )
    def test_other_forms_are_none(self, statement: str) -> None:
        assert statements.setval(f"SELECT pg_catalog.setval('{statement});".encode(), "UTF8") is None


@pytest.mark.parametrize(("encoding", "name"), ENCODINGS)
def test_names_are_read_in_the_encoding_of_the_dump(encoding: str, name: str) -> None:
    codec = statements.codec(encoding)
    assert statements.name(quoted(f'a"{name}', codec), encoding) == f'a"{name}'
    assert statements.name(name.encode(codec), encoding) == name


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "MULE_INTERNAL", "EUC_TW", "nonsense", ""])
def test_what_has_no_codec_here_can_be_turned_back(encoding: str) -> None:
    everything = bytes(range(1, 256)).replace(b'"', b"")
    assert statements.name(b'"%b"' % everything, encoding).encode("latin-1") == everything


def test_names_that_do_not_fit_their_encoding_lose_nothing() -> None:
    assert statements.name(b'"caf\xe9"', "UTF8") == "café"


@pytest.mark.parametrize(
    ("statement", "encoding"),
    [("SET client_encoding = 'LATIN1';", "LATIN1"), ("SET client_encoding TO 'LATIN1';", None), ("SET client_min_messages = warning;", None)],
)  # fmt: skip
def test_client_encoding(statement: str, encoding: str | None) -> None:
    assert statements.client_encoding(statement.encode()) == encoding


@pytest.mark.parametrize(
    ("statement", "oid"),
    [
        ("SELECT pg_catalog.lo_open('4711', 131072);", 4711),
        ("SELECT pg_catalog.lo_open('x', 131072);", None),
        ("SELECT pg_catalog.lo_close(0);", None),
    ],
)
def test_large_object(statement: str, oid: int | None) -> None:
    assert statements.large_object(statement.encode()) == oid


ROLES = [
    ("ALTER TABLE public.t OWNER TO app;", ["app"]),
    ("ALTER FUNCTION public.f(a text DEFAULT ' OWNER TO no;') OWNER TO \"My Role\";", ["My Role"]),
    ('ALTER SCHEMA "OWNER TO x;" OWNER TO "a""b";', ['a"b']),
    ("ALTER TABLE ONLY public.t ADD CONSTRAINT c CHECK (a > 0);", []),
    ("GRANT SELECT ON TABLE public.t TO reader;", ["reader"]),
    ("GRANT SELECT ON TABLE public.t TO PUBLIC;", []),
    ("GRANT SELECT(a),UPDATE(b) ON TABLE public.t TO reader;", ["reader"]),
    ('GRANT ALL ON SCHEMA "TO x" TO "odd TO role";', ["odd TO role"]),
    ("GRANT SELECT ON TABLE public.t TO reader WITH GRANT OPTION;", ["reader"]),
    ("REVOKE ALL ON FUNCTION public.f() FROM PUBLIC;", []),
    ("REVOKE ALL ON TABLE public.t FROM owner;", ["owner"]),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES TO reader;",
        ["app", "reader"],
    ),
    ("ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE ALL ON FUNCTIONS FROM PUBLIC;", ["app"]),
    ("SET SESSION AUTHORIZATION app;", ["app"]),
    ("CREATE USER MAPPING FOR app SERVER x OPTIONS (\"user\" 'TO me');", ["app"]),
    ("CREATE ROLE app;", ["app"]),
    ('CREATE POLICY p ON public.t TO a, "b c", d USING (x);', ["a", "b c", "d"]),
    ("CREATE POLICY p ON public.t USING (x);", []),
    ("CREATE POLICY adding ON public.t FOR INSERT TO PUBLIC WITH CHECK (true);", []),
    ("CREATE TABLE public.t (a text DEFAULT ' OWNER TO x;');", []),
    ("COMMENT ON TABLE public.t IS 'ALTER TABLE t OWNER TO app;';", []),
]


@pytest.mark.parametrize(("statement", "expected"), ROLES)
def test_roles(statement: str, expected: list[str]) -> None:
    found = [statements.name(role, "UTF8") for role in statements.roles(statement.encode())]
    assert sorted(found) == sorted(expected)


@settings(deadline=None)
@given(any_name)
def test_a_role_of_any_name(role: str) -> None:
    for form in (
        b"ALTER TABLE public.t OWNER TO %b;",
        b"GRANT SELECT ON TABLE public.t TO %b;",
        b"CREATE POLICY p ON public.t TO %b USING (true);",
    ):
        found = [statements.name(one, "UTF8") for one in statements.roles(form % quoted(role))]
        assert found == [role]
