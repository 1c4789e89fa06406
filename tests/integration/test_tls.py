"""asyncpg and pg_dump judge a server's certificate alike, by libpq's own variables."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import Cli, Postgres, bindir_of, running


@dataclass(frozen=True)
class Secured:
    server: Postgres
    ca: Path
    other_ca: Path


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def self_signed(folder: Path, name: str, address: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-addext", f"subjectAltName={address}", "-out", certificate, "-keyout", key,
    )  # fmt: skip
    return certificate, key


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    bindir = bindir_of(15)
    if bindir is None or not shutil.which("openssl"):
        pytest.skip("needs a PostgreSQL 15 that was built with OpenSSL, and the openssl command")
    with tempfile.TemporaryDirectory(prefix="tls-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        certificate, key = self_signed(folder, "server", "IP:127.0.0.1")
        other, _ = self_signed(folder, "other", "IP:127.0.0.1")
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(key, nobody.pw_uid, nobody.pw_gid)
        key.chmod(0o600)
        settings = {"ssl": "on", "ssl_cert_file": f"{certificate}", "ssl_key_file": f"{key}"}
        with running("tls", bindir, tcp=True, settings=settings) as server:
            server.psql("postgres", "CREATE DATABASE app")
            yield Secured(server, certificate, other)


def back_up(secured: Secured, run_cli: Cli, tmp_path: Path, host: str, **libpq: str) -> tuple[int, str]:
    cluster = secured.server.cluster
    done = run_cli(
        "backup",
        f"{host}:{cluster.port}/app",
        env={
            "BACKUP_DIR": f"{tmp_path}/backups",
            "POSTGRESQL_USER": cluster.user,
            "POSTGRESQL_PASSWORD": cluster.password.reveal(),
            "DUMP_RETRIES": "0",
            **libpq,
        },
    )
    return done.returncode, done.stdout + done.stderr


def test_a_verified_server_is_backed_up(secured: Secured, run_cli: Cli, tmp_path: Path) -> None:
    code, said = back_up(
        secured, run_cli, tmp_path, "127.0.0.1", PGSSLMODE="verify-full", PGSSLROOTCERT=f"{secured.ca}"
    )
    assert code == 0, said
    assert "server.tls_unverified" not in said


@pytest.mark.parametrize(("required", "expected"), [("scram-sha-256", 0), ("md5", 1)])
def test_what_libpq_requires_of_a_login_is_kept_within_tls(
    secured: Secured, run_cli: Cli, tmp_path: Path, required: str, expected: int
) -> None:
    libpq = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": f"{secured.ca}", "PGCHANNELBINDING": "require"}
    code, said = back_up(secured, run_cli, tmp_path, "127.0.0.1", PGREQUIREAUTH=required, **libpq)
    assert code == expected, said
    assert ("PGREQUIREAUTH=md5 forbids: scram-sha-256" in said) == bool(expected)


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_certificate_of_somebody_else_is_refused(
    secured: Secured, run_cli: Cli, tmp_path: Path, mode: str
) -> None:
    code, said = back_up(
        secured, run_cli, tmp_path, "127.0.0.1", PGSSLMODE=mode, PGSSLROOTCERT=f"{secured.other_ca}"
    )
    assert code == 1, said
    assert "PGSSLROOTCERT" in said
    assert not list((tmp_path / "backups").rglob("*.sql.gz*"))


@pytest.mark.parametrize(("mode", "expected"), [("verify-full", 1), ("verify-ca", 0)])
def test_the_name_counts_where_libpq_says_so(
    secured: Secured, run_cli: Cli, tmp_path: Path, mode: str, expected: int
) -> None:
    code, said = back_up(
        secured, run_cli, tmp_path, "localhost", PGSSLMODE=mode, PGSSLROOTCERT=f"{secured.ca}"
    )
    assert code == expected, said


def test_the_systems_certificates_do_not_vouch_for_it(secured: Secured, run_cli: Cli, tmp_path: Path) -> None:
    code, said = back_up(
        secured, run_cli, tmp_path, "127.0.0.1", PGSSLMODE="verify-full", PGSSLROOTCERT="system"
    )
    assert code == 1, said
    assert "certificate" in said


def test_a_missing_certificate_file_is_named(secured: Secured, run_cli: Cli, tmp_path: Path) -> None:
    code, said = back_up(
        secured, run_cli, tmp_path, "127.0.0.1", PGSSLMODE="verify-full", PGSSLROOTCERT="/nowhere/ca.crt"
    )
    assert code == 1, said
    assert "/nowhere/ca.crt" in said
