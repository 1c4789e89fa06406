"""Restores by the installed command, and what must be so of a database before and after them."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any
from unittest import mock

from asyncbackup.cli.app import app, invoke
from asyncbackup.cli.seed import seed
from asyncbackup.dbspec import spec_text
from asyncbackup.model import DatabaseSpec
from tests.invariants import Result, Site
from tests.servers import Database, Postgres

_PROPERTIES = """
SELECT json_build_object(
  'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding), 'collate', datcollate,
  'ctype', datctype, 'limit', datconnlimit, 'open', datallowconn, 'template', datistemplate,
  'acl', (SELECT json_agg(a::text ORDER BY a::text) FROM unnest(datacl) a),
  'comment', shobj_description(d.oid, 'pg_database'),
  'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = dattablespace),
  'settings', (SELECT json_agg(json_build_array(setrole::regrole, s) ORDER BY setrole, s)
    FROM pg_db_role_setting r, unnest(setconfig) s WHERE setdatabase = d.oid))
FROM pg_database d WHERE datname = :'name'
"""
# Partitions count by their root: those of an enum's hash are filled anew. Nor does the order of columns count.
_TABLES = """
SELECT coalesce(json_agg(json_build_array(format('%I.%I', n.nspname, c.relname), c.relkind) ORDER BY 1), '[]')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT relispartition AND n.nspname !~ '^(pg_|information_schema)'
"""


def properties(server: Postgres, dbname: str) -> dict[str, Any]:
    """Return everything that is set for a database."""
    found: dict[str, Any] = json.loads(server.psql("postgres", _PROPERTIES, name=dbname))
    return found


def rows(server: Postgres, dbname: str) -> dict[str, str]:
    """Return a digest of the rows of each table, whatever their order."""
    found = json.loads(server.psql(dbname, _TABLES))
    digests = [
        f"SELECT md5(coalesce(string_agg(r::text, '|' ORDER BY r::text COLLATE \"C\"), ''))"
        f" FROM (SELECT to_jsonb(t) AS r FROM {'' if kind == 'p' else 'ONLY'} {table} t) AS rows;"
        for table, kind in found
    ]
    values = server.psql(dbname, "\n".join(digests)).split()
    return dict(zip([table for table, _ in found], values, strict=True))


def state(server: Postgres, dbname: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return all that a restore of something else, or one that fails, must leave as it is."""
    return rows(server, dbname), properties(server, dbname)


def names(server: Postgres) -> set[str]:
    """Return the names of all databases."""
    found = json.loads(server.query("postgres", "SELECT json_agg(datname) FROM pg_database"))
    return set(found)


def kept(server: Postgres, dbname: str) -> list[str]:
    """Return the names of replaced databases, the oldest first."""
    return sorted(name for name in names(server) if name.startswith(f"{dbname}_before_"))


def drop_kept(server: Postgres, dbname: str) -> None:
    """Drop what restores have left aside."""
    for name in kept(server, dbname):
        server.drop(name)


def half_made(server: Postgres) -> set[str]:
    """Return the names of databases that restores have not finished."""
    return {name for name in names(server) if "_restoring_" in name}


def run_here(site: Site, *arguments: str, command: str = "asyncbackup", **variables: str) -> Result:
    """Run a command in this very process, which spares the start of another."""
    out, err = io.StringIO(), io.StringIO()
    environment = site.cli.environment({**site.env, **variables})
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "argv", [command, *arguments]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = invoke(app if command == "asyncbackup" else seed, command)
    result = Result(returncode=int(code), stdout=out.getvalue(), stderr=err.getvalue())
    assert "Traceback" not in result.stderr, result.stderr
    assert not [event for event in result.events if event.get("category") == "bug"], result.stderr
    for server in site.servers:
        assert server.cluster.password.reveal() not in result.stdout + result.stderr
    return result


def restore(site: Site, of: Database | DatabaseSpec, *arguments: str, **variables: str) -> Result:
    """Run `asyncbackup restore --yes --json` to its end."""
    spec = of.spec if isinstance(of, Database) else of
    return run_here(site, "restore", spec_text(spec), "--yes", "--json", *arguments, **variables)


def restored(site: Site, of: Database | DatabaseSpec, *arguments: str, **variables: str) -> dict[str, Any]:
    """Restore, expect that it succeeds, and return the result."""
    done = restore(site, of, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    assert done.report["status"] == "good"
    return done.report


def start(
    site: Site, of: Database | DatabaseSpec, *arguments: str, **variables: str
) -> "subprocess.Popen[str]":
    """Start a restore, to do something to it meanwhile."""
    spec = of.spec if isinstance(of, Database) else of
    words = ("restore", spec_text(spec), "--yes", "--json", *arguments)
    return site.cli.start(*words, env={**site.env, **variables})


def until_stage(child: "subprocess.Popen[str]", stage: str) -> list[Mapping[str, Any]]:
    """Read a restore's log until it begins a stage; return what was logged."""
    assert child.stderr is not None
    events: list[Mapping[str, Any]] = []
    while not (events and events[-1]["event"] == "restore.stage" and events[-1]["stage"] == stage):
        line = child.stderr.readline()
        assert line, f"it ended before it was {stage}: {events[-3:]}"
        if line.startswith("{"):
            events.append(json.loads(line))
    return events
