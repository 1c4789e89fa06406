"""Copies at an FTP server that is down, refuses, breaks off, lies or is somebody else (46 to 50)."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from asyncbackup.model import Secret
from asyncbackup.samples.ftps_server import certify
from tests.faulty_ftps import FaultyServer
from tests.invariants import Result, Site
from tests.servers import Database

PASSWORD = "the ftp password"
YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


@dataclass
class Elsewhere:
    """A site whose backups are copied to a server of ours."""

    site: Site
    server: FaultyServer

    async def backup(self, **variables: str) -> Result:
        return await asyncio.to_thread(self.site.backup, **variables)

    async def loses_nothing(self, says: str, retries: int = 0, **variables: str) -> None:
        """Run with the fault: the backup is good, the copy is not, and that is told with the server's words."""
        before = self.site.files
        done = await self.backup(**variables)
        assert done.returncode == 3, done.stderr
        assert done.only["status"] == "local only"
        (failed,) = done.named("upload.failed")
        assert says in failed["error"]
        assert failed["category"] == "target"
        assert len(done.named("upload.retried")) == retries
        assert PASSWORD not in done.stdout + done.stderr
        self.site.check(None, before)

    async def recovers(self) -> None:
        """Run without the fault: the next run also stores what the last one could not."""
        done = await self.backup()
        assert done.returncode == 0, done.stderr
        local = {path.name: path.read_bytes() for path in self.site.files}
        assert {path.name: path.read_bytes() for path in self.server.folder.iterdir()} == local
        assert len(local) == 4


@pytest.fixture
async def elsewhere(site: Site, small: Database, tmp_path: Path) -> AsyncIterator[Elsewhere]:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    tls, authority = certify(tmp_path, "127.0.0.1")
    server = FaultyServer(folder=folder, user="backup", password=Secret(PASSWORD), tls=tls)
    async with server.serving():
        site.use(
            small.server,
            FTP_URL=f"ftp://127.0.0.1:{server.port}/",
            FTP_USER="backup",
            FTP_PASSWORD=PASSWORD,
            FTP_CA_FILE=f"{authority}",
            UPLOAD_RETRIES="2",
        ).configure(small)
        yield Elsewhere(site, server)


Fault = Callable[[FaultyServer], object]


def deny(command: str, reply: str) -> Fault:
    return lambda server: server.deny.__setitem__(command, reply)


def be(**what: Any) -> Fault:
    def change(server: FaultyServer) -> None:
        for name, value in what.items():
            setattr(server, name, value)

    return change


@pytest.mark.parametrize(
    ("fault", "says", "retries"),
    [
        pytest.param(be(greeting="421 Too many users."), "421 Too many users.", 2, id="f46-busy"),
        pytest.param(deny("PASS", "530 Login incorrect."), "530 Login incorrect.", 0, id="f46-login"),
        pytest.param(deny("STOR", "550 Permission denied."), "550 Permission denied.", 0, id="f46-denied"),
        pytest.param(deny("STOR", "552 Quota exceeded."), "552 Quota exceeded.", 0, id="f46-quota"),
        pytest.param(be(full_after=1), "452 Transfer aborted.", 0, id="f46-full"),
        pytest.param(deny("RNTO", "550 Permission denied."), "550 Permission denied.", 0, id="f46-rename"),
        pytest.param(be(lose=1), "the server has", 2, id="f47-lost"),
        pytest.param(be(wrong_digest=True), "SHA-256", 2, id="f47-changed"),
        pytest.param(deny("AUTH", "502 Not implemented."), "502 Not implemented.", 0, id="f49-no-tls"),
        pytest.param(be(injected="230 Welcome."), "in clear text", 0, id="f49-injected"),
        pytest.param(deny("PROT", "536 Not supported."), "536 Not supported.", 0, id="f49-clear-data"),
        pytest.param(be(endless="EPSV"), "does not end", 0, id="f50-endless"),
        pytest.param(be(greeting="HTTP/1.1 400 Bad Request"), "no FTP server", 0, id="f50-garbage"),
    ],
)
async def test_a_fault_leaves_the_backup_good_and_the_next_run_copies_it(
    elsewhere: Elsewhere, fault: Fault, says: str, retries: int
) -> None:
    honest = dict(vars(elsewhere.server))
    fault(elsewhere.server)
    await elsewhere.loses_nothing(says, retries)
    assert not any(name.name.endswith((".gz", ".json")) for name in elsewhere.server.folder.iterdir())
    vars(elsewhere.server).update(honest)
    elsewhere.server.deny.clear()
    await elsewhere.recovers()


async def test_f46_a_server_that_is_down(elsewhere: Elsewhere) -> None:
    await elsewhere.loses_nothing("Connection refused", 2, FTP_URL="ftp://127.0.0.1:9/")
    await elsewhere.recovers()


async def test_f47_a_server_that_says_nothing(elsewhere: Elsewhere) -> None:
    elsewhere.server.silent["STOR"] = asyncio.Event()
    await elsewhere.loses_nothing("no reply within 1 s", 1, TRANSFER_TIMEOUT="1s", UPLOAD_RETRIES="1")
    elsewhere.server.silent.clear()
    await elsewhere.recovers()


async def test_f47_an_upload_that_is_cut_once_is_tried_again(elsewhere: Elsewhere, big: Database) -> None:
    elsewhere.server.cut_after = 1_000_000
    elsewhere.site.configure(big)
    done = await elsewhere.backup()
    assert done.returncode == 0, done.stderr
    assert len(done.named("upload.retried")) == 1
    local = {path.name: path.read_bytes() for path in elsewhere.site.files}
    assert {path.name: path.read_bytes() for path in elsewhere.server.folder.iterdir()} == local


async def test_f48_half_a_file_of_another_tool_is_replaced(elsewhere: Elsewhere) -> None:
    first = await elsewhere.backup(FTP_URL="")
    half = elsewhere.server.folder / first.path.name
    half.write_bytes(first.path.read_bytes()[:100])
    await elsewhere.recovers()


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (("ftp.example.org",), {}, "IP address mismatch"),
        (("127.0.0.1",), {"not_after": YESTERDAY}, "certificate has expired"),
    ],
    ids=["name", "expired"],
)
async def test_f49_a_server_that_does_not_prove_who_it_is(
    elsewhere: Elsewhere, tmp_path: Path, names: tuple[str, ...], options: dict[str, Any], says: str
) -> None:
    authority = trustme.CA()
    file = tmp_path / "other.pem"
    authority.cert_pem.write_to_path(str(file))
    honest, elsewhere.server.tls = elsewhere.server.tls, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(elsewhere.server.tls)
    await elsewhere.loses_nothing(says, FTP_CA_FILE=f"{file}")
    await elsewhere.loses_nothing("unable to get local issuer certificate")
    assert set(elsewhere.server.log) == {"AUTH TLS"}
    elsewhere.server.tls = honest
    done = await elsewhere.backup()
    assert done.returncode == 0, done.stderr


async def test_f50_an_address_of_somebody_else_is_not_connected_to(elsewhere: Elsewhere) -> None:
    elsewhere.server.deny["EPSV"] = "550 Permission denied."
    elsewhere.server.address = "203,0,113,9"
    await elsewhere.backup()
    await elsewhere.recovers()
