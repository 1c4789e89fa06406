"""A database's properties as SQL; whether they take effect, the tests of restores show on real servers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.model import DatabaseProperties
from asyncbackup.postgres.properties import Change, Grant, changes, grants, literal, quoted, roles

NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)


def of(properties: DatabaseProperties, *, closed: bool = True, owner: str = "app") -> dict[str, Change]:
    found = changes(
        "d", properties, owner=owner, admin="me", closed=closed, allow_connections=True, vital=True
    )
    return {change.what: change for change in found}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=Tc/app", Grant(grantee="", privileges=(("TEMPORARY", False), ("CONNECT", False)), grantor="app")),
        ("app=C*T*c/app", Grant(grantee="app", privileges=(("CREATE", True), ("TEMPORARY", True), ("CONNECT", False)), grantor="app")),
        ('"a ""b""=c/d"=c/"x/y"', Grant(grantee='a "b"=c/d', privileges=(("CONNECT", False),), grantor="x/y")),
        ("none=/app", Grant(grantee="none", privileges=(), grantor="app")),
    ],
)  # fmt: skip
def test_an_access_list_is_read(text: str, expected: Grant) -> None:
    assert grants([text]) == (expected,)


@given(NAMES, NAMES)
def test_whatever_the_roles_are_called(grantee: str, grantor: str) -> None:
    (found,) = grants([f"{quoted(grantee)}=c/{quoted(grantor)}"])
    assert (found.grantee, found.grantor) == (grantee, grantor)


def test_an_access_list_of_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="no entry"):
        grants(["app"])


def test_rights_are_granted_in_an_order_that_works() -> None:
    acl = ("reader=c/writer", "writer=c*/app", "=T/app", "app=CTc/app")
    rights = of(DatabaseProperties(owner="app", acl=acl))["the access rights"]
    assert rights.statements == (
        'REVOKE ALL ON DATABASE "d" FROM PUBLIC, "app"',
        'GRANT CONNECT ON DATABASE "d" TO "writer" WITH GRANT OPTION',
        'GRANT TEMPORARY ON DATABASE "d" TO PUBLIC',
        'GRANT CREATE, TEMPORARY, CONNECT ON DATABASE "d" TO "app"',
        'SET LOCAL ROLE "writer"',
        'GRANT CONNECT ON DATABASE "d" TO "reader"',
        "SET LOCAL ROLE NONE",
    )
    assert rights.vital


def test_the_default_rights_are_left_alone_unless_it_was_closed_by_them() -> None:
    default = DatabaseProperties(owner="app")
    assert "the access rights" not in of(default)
    assert of(default, closed=False)["the access rights"].statements == (
        'REVOKE ALL ON DATABASE "d" FROM PUBLIC, "app", "me"',
        'GRANT TEMPORARY, CONNECT ON DATABASE "d" TO PUBLIC',
        'GRANT CREATE, TEMPORARY, CONNECT ON DATABASE "d" TO "app"',
    )


def test_settings_are_lists_or_values_and_never_vital() -> None:
    properties = DatabaseProperties(
        owner="app",
        comment="it's \\",
        settings=(
            ("", 'search_path="a, ""b""", public'),
            ("", "DateStyle=ISO, DMY"),
            ("", 'search_path=""'),
            ("who", "app.x=it's = \\"),
        ),
    )
    found = [change for change in of(properties).values() if not change.vital]
    assert [change.statements for change in found] == [
        ('COMMENT ON DATABASE "d" IS ' + literal("it's \\"),),
        ("""ALTER DATABASE "d" SET "search_path" TO 'a, "b"', 'public'""",),
        ("""ALTER DATABASE "d" SET "DateStyle" TO 'ISO, DMY'""",),
        ("""ALTER DATABASE "d" SET "search_path" TO ''""",),
        ('ALTER ROLE "who" IN DATABASE "d" SET "app.x" TO ' + literal("it's = \\"),),
    ]


def test_the_connection_limit_is_always_set_since_it_was_closed() -> None:
    limit = of(DatabaseProperties(owner="app"))["the connection limit"]
    assert (limit.statements, limit.vital) == (('ALTER DATABASE "d" CONNECTION LIMIT -1',), True)


def test_an_owner_who_cannot_be_had_is_not_set() -> None:
    properties = DatabaseProperties(owner="app", acl=("app=CTc/app",))
    found = of(properties, owner="me")
    assert "the owner app" not in found
    assert (
        found["the access rights"].statements[-1]
        == 'GRANT CREATE, TEMPORARY, CONNECT ON DATABASE "d" TO "app"'
    )


def test_every_role_that_is_named_is_found() -> None:
    properties = DatabaseProperties(owner="a", acl=("=c/b", "c=c/a"), settings=(("d", "x=1"), ("", "y=2")))
    assert roles(properties) == {"a", "b", "c", "d"}
