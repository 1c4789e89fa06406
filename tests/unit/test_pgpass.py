"""Password files are read as libpq reads them."""

from pathlib import Path

import pytest

from asyncbackup import pgpass
from asyncbackup.model import DatabaseSpec

SPEC = DatabaseSpec("wallet-db", 5433, "app")


def found(
    folder: Path, text: str | bytes, spec: DatabaseSpec = SPEC, user: str = "me", mode: int = 0o600
) -> str | None:
    file = folder / "pass"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    file.chmod(mode)
    secret = pgpass.password({"PGPASSFILE": f"{file}"}, spec, user)
    return secret.reveal() if secret else None


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("wallet-db:5433:app:me:s3cret", "s3cret"),
        ("*:*:*:*:s3cret", "s3cret"),
        ("wallet-db:*:*:me:s3cret\r", "s3cret"),
        ("*:*:*:*:a\\:b\\\\c", "a:b\\c"),
        ("*:*:*:*:ends\\", "ends\\"),
        ("*:*:*:*:s3cret:what follows", "s3cret"),
        ("*:*:*:*: blank ", " blank "),
        ("w\\allet-db:*:*:*:s3cret", "s3cret"),
        ("*:*:*:*:pässword", "pässword"),
        ("#*:*:*:*:s3cret", None),
        ("\\*:*:*:*:s3cret", None),
        ("**:*:*:*:s3cret", None),
        ("wallet-d:*:*:*:s3cret", None),
        ("wallet-db2:*:*:*:s3cret", None),
        ("*:5432:*:*:s3cret", None),
        ("*:*:App:*:s3cret", None),
        ("*:*:*:you:s3cret", None),
        ("*:*:*:s3cret", None),
        ("*:*:*:*:", None),
        ("", None),
    ],
)
def test_a_line(tmp_path: Path, line: str, password: str | None) -> None:
    assert found(tmp_path, f"{line}\n") == password


def test_the_first_line_that_fits_counts(tmp_path: Path) -> None:
    assert found(tmp_path, "# mine\nother:*:*:*:one\n\nwallet-db:*:*:*:two\n*:*:*:*:three") == "two"


@pytest.mark.parametrize(
    ("host", "line", "fits"),
    [
        ("2001:db8::7", "2001\\:db8\\:\\:7", True),
        ("2001:db8::7", "2001:db8::7", False),
        ("/var/run/postgresql", "localhost", True),
        ("/tmp", "localhost", True),
        ("/srv/sockets", "localhost", False),
        ("/srv/sockets", "/srv/sockets", True),
    ],
)
def test_hosts(tmp_path: Path, host: str, line: str, *, fits: bool) -> None:
    password = found(tmp_path, f"{line}:*:*:*:s3cret", DatabaseSpec(host, 5432, "app"))
    assert password == ("s3cret" if fits else None)


def test_odd_names(tmp_path: Path) -> None:
    assert found(tmp_path, "*:*:a\\:b\\\\:*:s3cret", DatabaseSpec("h", 1, "a:b\\")) == "s3cret"
    assert found(tmp_path, "*:*:*:*:\\\\x\nh:*:\\*:*:s3cret", DatabaseSpec("h", 1, "*")) == "\\x"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_file_that_others_may_read_is_ignored(tmp_path: Path, mode: int) -> None:
    assert found(tmp_path, "*:*:*:*:s3cret", mode=mode) is None
    assert "others may read it" in pgpass.problem({"PGPASSFILE": f"{tmp_path / 'pass'}"})


def test_what_is_no_file_is_ignored(tmp_path: Path) -> None:
    environ = {"PGPASSFILE": f"{tmp_path}"}
    assert pgpass.password(environ, SPEC, "me") is None
    assert "no regular file" in pgpass.problem(environ)
    environ = {"PGPASSFILE": f"{tmp_path / 'none'}"}
    assert (pgpass.password(environ, SPEC, "me"), pgpass.problem(environ)) == (None, "")


def test_the_file_at_home(tmp_path: Path) -> None:
    assert pgpass.path({"HOME": f"{tmp_path}"}) == tmp_path / ".pgpass"
    assert pgpass.path({"HOME": f"{tmp_path}", "PGPASSFILE": "/x"}) == Path("/x")
    assert pgpass.path({}) is not None
