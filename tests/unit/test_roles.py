"""Roles as a globals backup describes them, less the rights over the whole server."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncbackup.errors import DamagedError
from asyncbackup.model import Backup, Tier
from asyncbackup.restoring.roles import missing_roles

GLOBALS = b"""--
-- PostgreSQL database cluster dump
--

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

--
-- Roles
--

CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE CREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 5 PASSWORD 'SCRAM-SHA-256$4096:c2FsdA==$a2V5:a2V5' VALID UNTIL '2030-01-01 00:00:00+00';
COMMENT ON ROLE app IS 'ALTER ROLE other WITH SUPERUSER;';
CREATE ROLE "Od""d; rol\xc3\xa9";
ALTER ROLE "Od""d; rol\xc3\xa9" WITH SUPERUSER NOINHERIT CREATEROLE NOCREATEDB NOLOGIN REPLICATION BYPASSRLS;

--
-- User Configurations
--

ALTER ROLE app SET search_path TO 'a b', 'it''s';
ALTER ROLE app SET "app.x" TO E'back\\\\slash';

--
-- Role memberships
--

GRANT "Od""d; rol\xc3\xa9" TO app GRANTED BY postgres;


--
-- PostgreSQL database cluster dump complete
--

"""


CREATED = (
    "CREATE ROLE \"app\" INHERIT LOGIN CONNECTION LIMIT 5 PASSWORD 'SCRAM-SHA-256$4096:c2FsdA==$a2V5:a2V5'"
)


def backup(path: Path, data: bytes = GLOBALS) -> Backup:
    path.write_bytes(gzip.compress(data))
    return Backup(
        path=path, core="h-@globals", tier=Tier.DATED, taken_at=datetime.now(UTC), bytes=1, good=True
    )


def test_what_stands_in_the_backup_is_made_less_the_rights_over_the_server(tmp_path: Path) -> None:
    found = {
        role.name: role for role in missing_roles(backup(tmp_path / "g"), ["other", "app", 'Od"d; rolé'])
    }
    assert found["app"].statements == (
        f"{CREATED} VALID UNTIL '2030-01-01 00:00:00+00'",
        "ALTER ROLE \"app\" SET search_path TO 'a b', 'it''s'",
        'ALTER ROLE "app" SET "app.x" TO E\'back\\\\slash\'',
    )
    assert found["app"].withheld == ("CREATEDB",)
    assert found['Od"d; rolé'].statements == ('CREATE ROLE "Od""d; rolé" NOINHERIT NOLOGIN',)
    assert found['Od"d; rolé'].withheld == ("SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS")
    assert (found["other"].statements, found["other"].known) == (('CREATE ROLE "other" NOLOGIN',), False)


def test_without_a_backup_nobody_can_log_in() -> None:
    (role,) = missing_roles(None, ["app"])
    assert (role.statements, role.known) == (('CREATE ROLE "app" NOLOGIN',), False)


def test_a_damaged_backup_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="end"):
        missing_roles(backup(tmp_path / "globals", GLOBALS[:-60]), ["app"])


@pytest.mark.parametrize(
    "statement",
    [
        b"ALTER ROLE app WITH LOGIN; DROP DATABASE shop;",
        b"ALTER ROLE app SET x TO 'a'; DROP DATABASE shop;",
        b"ALTER ROLE app SET x TO pg_sleep(1);",
        b"ALTER ROLE app RENAME TO postgres;",
    ],
)
def test_nothing_of_another_form_is_run(tmp_path: Path, statement: bytes) -> None:
    data = GLOBALS.replace(b"--\n-- Role memberships", statement + b"\n\n--\n-- Role memberships")
    (role,) = missing_roles(backup(tmp_path / "globals", data), ["app"])
    for made in role.statements:
        assert made.startswith(('CREATE ROLE "app" ', 'ALTER ROLE "app" SET '))
        assert "DROP" not in made
        assert "sleep" not in made
