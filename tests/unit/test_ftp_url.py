"""The URL of an FTP folder: what it means, and what it must not say."""

import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.model import Secret
from asyncbackup.targets.url import FtpUrl, parse_ftp

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
NAMES = TEXT.filter(lambda name: "/" not in name and name not in {".", ".."})
HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True) | st.sampled_from(
    ["::1", "fe80::1", "127.0.0.1"]
)


def url(text: str) -> tuple[bool, str, int, str, str | None, str | None]:
    found = parse_ftp(text)
    password = found.password.reveal() if found.password else found.password
    return found.implicit, found.host, found.port, found.path, found.user, password  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://host", (False, "host", 21, "", None, None)),
        ("ftp://host/", (False, "host", 21, "", None, None)),
        ("ftps://host", (True, "host", 990, "", None, None)),
        ("FTPS://HOST/a", (True, "host", 990, "a", None, None)),
        ("ftp://host:2121/db/backups/", (False, "host", 2121, "db/backups", None, None)),
        ("ftp://host/db//backups///", (False, "host", 21, "db/backups", None, None)),
        ("ftp://host/%2Fsrv/db", (False, "host", 21, "/srv/db", None, None)),
        ("ftp://host//srv/db/", (False, "host", 21, "/srv/db", None, None)),
        ("ftp://host/%2F", (False, "host", 21, "/", None, None)),
        ("ftp://[::1]:2121/x", (False, "::1", 2121, "x", None, None)),
        ("ftp://user@host", (False, "host", 21, "", "user", None)),
        ("ftp://user%40dom:p%40s%3As%2Fw%23%3F%25@host", (False, "host", 21, "", "user@dom", "p@s:s/w#?%")),
        ("ftp://:secret@host", (False, "host", 21, "", "", "secret")),
        ("ftp://host/a%20b/%C3%BC", (False, "host", 21, "a b/ü", None, None)),
    ],
)
def test_a_url_is_taken_apart(text: str, expected: tuple[object, ...]) -> None:
    assert url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "http://host/",
        "ftp:///path",
        "ftp://",
        "ftp://host:0/",
        "ftp://host:65536/",
        "ftp://host:port/",
        "ftp://[::1/",
        "ftp://host/a?b",
        "ftp://host/a#b",
        "ftp://host/a b",
        "ftp://host/a%0Ab",
        "ftp://host/a\r\nDELE b",
        "ftp://us%0D%0ADELE%20b@host/",
        "ftp://user:a%0Ab@host/",
        "ftp://host/a%00b",
        "ftp://host/%zz",
        "ftp://host/50%",
        "ftp://host/%FF",
        "ftp://host/../b",
        "ftp://host/a/%2E%2E/b",
        "ftp://host/./b",
    ],
)
def test_what_is_no_such_url_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|has) ") as caught:
        parse_ftp(
            text.replace("://", "://hidden:secret@") if "@" not in text else text.replace("@", "secret@")
        )
    assert "secret" not in str(caught.value)


@given(
    implicit=st.booleans(),
    host=HOSTS,
    port=st.none() | st.integers(1, 65535),
    path=st.lists(NAMES, max_size=4),
    absolute=st.booleans(),
    user=st.none() | TEXT,
    password=st.none() | TEXT,
)
def test_whatever_is_percent_encoded_comes_back(
    implicit: bool,  # noqa: FBT001
    host: str,
    port: int | None,
    path: list[str],
    absolute: bool,  # noqa: FBT001
    user: str | None,
    password: str | None,
) -> None:
    login = (
        ""
        if user is None
        else quote(user, safe="") + ("" if password is None else f":{quote(password, safe='')}")
    )
    text = f"{'ftps' if implicit else 'ftp'}://{login + '@' if login else ''}{f'[{host}]' if ':' in host else host}"
    text += ("" if port is None else f":{port}") + "/" + "%2F" * absolute
    text += "/".join(quote(name, safe="") for name in path)
    found = parse_ftp(text)
    assert found.host == host
    assert found.port == (port or (990 if implicit else 21))
    assert found.path == "/" * absolute + "/".join(path)
    assert found.user == user
    assert found.password == (None if user is None or password is None else Secret(password))


@given(text=st.text(max_size=60) | st.text(max_size=60).map("ftp://".__add__))
def test_any_other_text_is_refused_in_order(text: str) -> None:
    try:
        found = parse_ftp(text)
    except ValueError:
        return
    assert found.host
    for said in (found.path, found.user, found.password.reveal() if found.password else ""):
        assert not any(character in (said or "") for character in "\r\n\0")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("ftp://user:secret@host/a/", "ftp://host/a/"),
        ("ftps://user:secret@host:990/%2Fa", "ftps://host/%2Fa/"),
        ("ftp://host/a%20b%3F/ü", "ftp://host/a%20b%3F/%C3%BC/"),
        ("ftp://[::1]:2121", "ftp://[::1]:2121/"),
        ("ftps://host:21/", "ftps://host:21/"),
    ],
)
def test_the_label_says_where_and_no_secret(text: str, label: str) -> None:
    assert parse_ftp(text).label == label
    assert "secret" not in repr(parse_ftp(text))


@given(
    host=HOSTS,
    port=st.integers(1, 65535),
    path=st.lists(NAMES, min_size=1, max_size=3).map("/".join),
    absolute=st.booleans(),
)
def test_a_label_is_a_url_to_the_same_place(host: str, port: int, path: str, absolute: bool) -> None:  # noqa: FBT001
    found = FtpUrl(
        implicit=False,
        host=host,
        port=port,
        path="/" * absolute + path,
        user="user",
        password=Secret("secret"),
    )
    again = parse_ftp(found.label)
    assert (again.host, again.port, again.path, again.user, again.password) == (
        host,
        port,
        found.path,
        None,
        None,
    )


def test_a_traceback_of_a_refusal_holds_no_password() -> None:
    try:
        parse_ftp("ftp://user:secr%E9t@host/")
    except ValueError:
        assert "secr" not in "".join(
            line for line in traceback.format_exc().splitlines() if "parse_ftp(" not in line
        )
    else:
        pytest.fail("that is no UTF-8")
