"""Uploads to vsftpd, ProFTPD and Pure-FTPd as they come, by TLS 1.2 and 1.3, and in the ways they are set up."""

import asyncio
import ftplib
import hashlib
import os
import random
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from asyncbackup.errors import TargetError
from asyncbackup.model import Secret
from asyncbackup.targets import ftp, ftp_remote
from asyncbackup.targets.ftps import Ftps, Tls
from asyncbackup.targets.target import BLOCK, Upload
from asyncbackup.targets.url import parse_ftp
from bench import upload
from tests import ftp_servers
from tests.ftp_servers import KINDS, PASSWORD, VERSIONS, Certificate, FtpServer, Kind, Version

NAME = "host-db_2026-01-31_23-59-59.sql.gz"
MIB = 1024 * 1024
ENOUGH = 8 * MIB
"""What has arrived of an upload before it is interrupted; so much is worth going on from."""
ODD_NAMES = (
    "db@5432-a%2Fb%20c_2026-01-31_23-59-59.sql.gz.json",
    "two words  and two spaces",
    "Ünï cödé 日本 🐘",
    'it\'s "quoted" (really) [so] {it} is;&!',
    "~tilde",
    "-dash",
    "n" * 200,
)
PLAIN_KINDS: tuple[Kind, ...] = ("vsftpd", "proftpd", "pure-ftpd")


@contextmanager
def serving(kind: Kind, *options: str, **more: Any) -> Iterator[FtpServer]:
    """Run a server; where the machine has none, skip, or fail where all are required."""
    if reason := ftp_servers.lacking(kind):
        if os.environ.get("CI") or os.environ.get("ASYNCBACKUP_REQUIRE_SERVERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    with ftp_servers.serving(kind, *options, **more) as server:
        yield server


class Servers:
    """The servers that several tests use, each started when it is first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[tuple[Kind, Version], FtpServer] = {}

    def __call__(self, kind: Kind, tls: Version = "1.3") -> FtpServer:
        if (kind, tls) not in self._running:
            self._running[kind, tls] = self._stack.enter_context(serving(kind, tls=tls))
        return self._running[kind, tls]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture(params=PLAIN_KINDS)
def server(request: pytest.FixtureRequest, servers: Servers) -> FtpServer:
    """Each server in turn, by TLS 1.3."""
    return servers(request.param)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """A folder that is not there yet, for one test alone."""
    return f"{abs(hash(request.node.name)):x}"


def target(server: FtpServer, path: str = "", **changes: Any) -> Ftps:
    """Return the location that a URL with user and password names, its certificate being checked."""
    url = parse_ftp(server.url(path))
    return replace(
        Ftps(
            url=url,
            user=url.user or "",
            password=url.password,
            tls=Tls(ca_file=server.ca_file),
            passive="auto",
            connect_timeout=20,
            transfer_timeout=20,
        ),
        **changes,
    )


@dataclass
class Local:
    """A file here, which may do something while it is read."""

    data: bytes
    name: str = NAME
    interrupt: Callable[[], object] | None = None
    """Called once, when the file has been read to its end."""
    before: int = 0
    """By how many bytes sooner it is called."""
    ready: Callable[[], bool] = lambda: True
    """What is waited for before that."""
    offsets: list[int] = field(default_factory=list)
    """Where reading it began, each time."""

    @property
    def upload(self) -> Upload:
        sha256 = hashlib.sha256(self.data).hexdigest()
        return Upload(name=self.name, size=len(self.data), sha256=sha256, blocks=self.blocks)

    async def blocks(self, offset: int) -> AsyncIterator[bytes]:
        self.offsets.append(offset)
        for at in range(offset, len(self.data), BLOCK):
            if at >= len(self.data) - self.before:
                await self._interrupted()
            yield self.data[at : at + BLOCK]
        await self._interrupted()

    async def _interrupted(self) -> None:
        if self.interrupt is not None:
            async with asyncio.timeout(30):
                while not self.ready():  # noqa: ASYNC110 - that is a server's doing
                    await asyncio.sleep(0.01)
            interrupt, self.interrupt = self.interrupt, None
            interrupt()


def data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def put(location: Ftps, file: Local, part: str = "") -> None:
    """Store a file over a connection of its own."""
    async with location.connect() as remote:
        await remote.put(file.upload, part)


async def got(location: Ftps, name: str = NAME) -> bytes:
    """Return what comes back, over a connection of its own."""
    async with location.connect() as remote, remote.get(name) as blocks:
        return b"".join([block async for block in blocks])


@contextmanager
def serving_a_folder(kind: Kind, *options: str) -> Iterator[FtpServer]:
    """Run a server whose folder `db` is there already, and empty."""
    with serving(kind, *options) as server:
        (server.home / "db").mkdir()
        owner = server.home.stat()
        os.chown(server.home / "db", owner.st_uid, owner.st_gid)
        yield server


async def refused(location: Ftps, file: Local, part: str = "") -> TargetError:
    """Store a file, which must fail."""
    with pytest.raises(TargetError) as caught:
        await put(location, file, part)
    assert PASSWORD not in f"{caught.value!s} {caught.value.hint} {caught.value.__cause__!r}"
    return caught.value


def broken_off(
    server: FtpServer, folder: str, interrupt: Callable[[], object], size: int = 3 * ENOUGH
) -> Local:
    """Return a file in the middle of which something happens, when enough of it lies at the server."""
    return Local(
        data(size),
        interrupt=interrupt,
        before=size - 2 * ENOUGH,
        ready=lambda: sum(path.stat().st_size for path in (server.home / folder).iterdir()) >= ENOUGH,
    )


async def stores_and_gives_back(location: Ftps, server: FtpServer, folder: str) -> None:
    """Store, replace, list, read and delete."""
    file = Local(data(MIB + 7))
    async with location.connect() as remote:
        await remote.put(Local(b"the old one").upload)
        await remote.put(file.upload)
        assert await remote.list() == {NAME: MIB + 7}
        assert server.files(folder) == {NAME: MIB + 7}
        async with remote.get(NAME) as blocks:
            assert b"".join([block async for block in blocks]) == file.data
        await remote.delete(NAME)
    assert server.files(folder) == {}


# The servers as they come


@pytest.mark.parametrize("tls", VERSIONS)
@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_the_servers_are_as_strict_as_those_that_people_run(
    servers: Servers, kind: Kind, tls: Version
) -> None:
    server = servers(kind, tls)
    client = ftplib.FTP_TLS(context=ssl.create_default_context(cafile=f"{server.ca_file}"), encoding="utf-8")
    with client:
        client.connect(server.host, server.port, timeout=20)
        client.auth()
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() == f"TLSv{tls}"
        client.login(server.user, PASSWORD)
        client.prot_p()  # and a data connection with a session of its own, as ftplib has them
        if kind == "pure-ftpd":
            assert client.nlst() == [".", ".."]
        else:
            with pytest.raises(ftplib.Error, match=r"session reuse required|Operation not permitted"):
                client.nlst()


@pytest.mark.parametrize("tls", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_is_stored_listed_and_comes_back(
    servers: Servers, kind: Kind, tls: Version, folder: str
) -> None:
    server = servers(kind, tls)
    file = Local(data(20 * MIB + 3))
    async with target(server, folder).connect() as remote:
        await remote.put(file.upload)
        assert await remote.size(NAME) == len(file.data)
        assert await remote.list() == {NAME: len(file.data)}
        hashed = hashlib.sha256(file.data).hexdigest() if kind == "proftpd-digest" else None
        assert await remote.sha256(NAME) == hashed
        async with remote.get(NAME) as blocks:
            assert b"".join([block async for block in blocks]) == file.data
        await remote.put(Local(b"").upload)
        assert server.files(folder) == {NAME: 0}
        await remote.delete(NAME)
        await remote.delete(NAME)
        assert await remote.size(NAME) is None
        assert await remote.list() == {}
    assert server.files(folder) == {}


async def test_a_data_connection_ends_as_tls_ends(servers: Servers, folder: str) -> None:
    server = servers("vsftpd")
    await put(target(server, folder), Local(data(MIB)))
    assert f"{folder}" in server.log()
    assert "SSL_RECEIVED_SHUTDOWN" in server.log()
    assert "without SSL shutdown" not in server.log()


async def test_the_end_of_a_small_file_does_not_wait_for_its_beginning_to_be_acknowledged(
    servers: Servers, folder: str
) -> None:
    connection = await target(servers("vsftpd")).log_in()
    try:
        stream = await connection.get_stream(f"STOR {folder}", "1xx")
        assert stream.writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await stream.finish()
    finally:
        connection.abort_connection()


async def test_what_is_not_what_was_sent_is_noticed_where_the_server_hashes(
    servers: Servers, folder: str
) -> None:
    server = servers("proftpd-digest")
    file = Local(data(MIB))
    async with target(server, folder).connect() as remote:
        with pytest.raises(TargetError, match="SHA-256 is another one") as caught:
            await remote.put(replace(file.upload, sha256="0" * 64))
    assert caught.value.retryable
    assert server.files(folder) == {}


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("kind", KINDS)
async def test_names_are_taken_as_they_are(servers: Servers, kind: Kind, folder: str, name: str) -> None:
    server = servers(kind)
    file = Local(b"content", name=name)
    async with target(server, folder).connect() as remote:
        await remote.put(file.upload)
        assert await remote.list() == {name: 7}
        assert await remote.size(name) == 7
        async with remote.get(name) as blocks:
            assert [block async for block in blocks] == [b"content"]
        await remote.delete(name)
    assert server.files(folder) == {}


async def test_folders_that_are_missing_are_made(server: FtpServer, folder: str) -> None:
    await put(target(server, f"{folder}/b%C3%A4ck%20up/db/"), Local(b"content"))
    assert server.files(f"{folder}/bäck up/db") == {NAME: 7}


async def test_a_path_may_be_absolute(server: FtpServer, folder: str) -> None:
    location = target(server, f"%2F{server.root.removeprefix('/')}/{folder}")
    assert location.url.path.startswith("/")
    await put(location, Local(b"content"))
    assert server.files(folder) == {NAME: 7}


async def test_a_wrong_password_is_the_users_to_correct(server: FtpServer) -> None:
    location = target(server, user=server.user, password=Secret("another-password"))
    error = await refused(location, Local(b"content"))
    assert "530" in error.message
    assert "FTP_PASSWORD" in error.hint
    assert not error.retryable
    assert "another-password" not in repr(error)


async def test_a_thousand_files(servers: Servers, folder: str) -> None:
    server = servers("proftpd")
    names = {f"{NAME}.{number}": number for number in range(1000)}
    async with target(server, folder).connect() as remote:
        for name, size in names.items():
            await remote.put(Local(data(size), name=name).upload)
        assert await remote.list() == names
    assert server.files(folder) == names


async def test_many_files_are_listed_by_a_server_without_machine_readable_listings(
    servers: Servers, folder: str
) -> None:
    server = servers("vsftpd")
    place = server.home / folder
    place.mkdir()
    names = {f"{NAME}.{number}": number for number in range(1000)}
    for name, size in names.items():
        (place / name).write_bytes(bytes(size))
    async with target(server, folder).connect() as remote:
        for _ in range(5):
            assert await remote.list() == names


# What goes wrong on the way


@pytest.mark.parametrize(
    ("kind", "options", "goes_on"),
    [
        ("vsftpd", (), True),
        ("pure-ftpd", (), True),
        ("proftpd", ("AllowStoreRestart on",), True),
        ("proftpd", ("AllowStoreRestart off",), False),
        ("proftpd", ("HiddenStores on",), False),
    ],
)
async def test_an_upload_that_was_cut_goes_on_where_the_server_lets_it(
    kind: Kind, options: Sequence[str], *, goes_on: bool
) -> None:
    with serving_a_folder(kind, *options) as server:
        location = target(server, "db")
        # A session that is ended, not killed, tidies up as it does when its connection is lost.
        file = broken_off(
            server, "db", lambda: server.cut(signal.SIGTERM if kind == "proftpd" else signal.SIGKILL)
        )
        error = await refused(location, file)
        assert error.retryable
        if goes_on:
            assert server.files("db").keys() == {error.part}
        begun = server.files("db").get(error.part, 0)
        await put(location, file, error.part)
        assert file.offsets == [0, begun if goes_on else 0]
        assert not goes_on or begun >= ENOUGH
        assert server.files("db") == {NAME: len(file.data)}
        assert await got(location) == file.data


@pytest.mark.parametrize("kind", PLAIN_KINDS)
async def test_a_server_that_is_killed_is_noticed_at_once(kind: Kind) -> None:
    with serving_a_folder(kind) as server:
        error = await refused(target(server, "db"), broken_off(server, "db", server.kill))
        assert error.retryable
        assert server.files("db").keys() == {error.part}
        again = await refused(target(server, "db"), Local(b"content"))
        assert again.retryable
        assert "refused" in again.message


@pytest.mark.parametrize("kind", PLAIN_KINDS)
async def test_a_server_that_stands_still_is_given_up(kind: Kind) -> None:
    with serving_a_folder(kind) as server:
        file = broken_off(server, "db", server.freeze, size=64 * MIB)
        error = await refused(target(server, "db", transfer_timeout=1), file)
        assert error.retryable
        assert "within 1 s" in error.message
        server.thaw()
        assert NAME not in server.files("db")


@pytest.mark.parametrize("kind", PLAIN_KINDS)
async def test_a_server_that_does_not_acknowledge_is_given_up(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp, "FINAL_REPLY", 1.0)
    monkeypatch.setattr(ftp_remote, "_DISCARDED", 1.0)
    with serving_a_folder(kind) as server:
        file = Local(data(64 * 1024), interrupt=server.freeze)
        error = await refused(target(server, "db"), file)
        assert error.retryable
        assert "within 1 s" in error.message
        server.thaw()
        assert NAME not in server.files("db")


async def test_an_upload_that_is_cancelled_is_no_file(server: FtpServer, folder: str) -> None:
    location = target(server, folder)
    await put(location, Local(b"the old one"))
    task = asyncio.create_task(
        put(location, broken_off(server, folder, lambda: task.cancel()))  # noqa: PLW0108 - not yet
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.files(folder) == {NAME: 11}
    assert await got(location) == b"the old one"


async def test_a_download_that_is_cut_is_no_end_of_the_file(server: FtpServer, folder: str) -> None:
    location = target(server, folder)
    await put(location, Local(data(20 * MIB)))

    async def read() -> None:
        async with location.connect() as remote, remote.get(NAME) as blocks:
            await anext(blocks)
            server.cut()
            async for _ in blocks:
                pass

    with pytest.raises(TargetError) as caught:
        await read()
    assert caught.value.retryable


async def test_a_file_that_a_dead_session_holds_is_stored_under_another_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ftp_remote, "_LOCKED", 1.0)
    with serving_a_folder("vsftpd", "lock_upload_files=YES") as server:

        def freeze() -> None:
            for pid in server.sessions():
                os.kill(pid, signal.SIGSTOP)

        file = broken_off(server, "db", freeze, size=64 * MIB)
        error = await refused(target(server, "db", transfer_timeout=3), file)
        assert error.retryable
        assert error.part in server.files("db")
        await put(target(server, "db"), file, error.part)
        assert file.offsets[-1] == 0
        assert server.files("db") == {NAME: len(file.data)}


# Full disks and quotas


@pytest.mark.parametrize("kind", PLAIN_KINDS)
async def test_a_disk_that_is_full_is_said_to_be_full(kind: Kind) -> None:
    if not ftp_servers.can_mount():
        pytest.skip("file systems cannot be mounted here, not even for one process")
    with serving(kind, disk=16 * MIB) as server:
        location = target(server, "db")
        error = await refused(location, Local(data(24 * MIB)))
        assert "the server says: 45" in error.message
        assert "room" in error.hint
        async with location.connect() as remote:
            assert (await remote.list()).keys() <= {error.part}
            await remote.put(Local(b"content", name="small").upload)


@pytest.mark.parametrize(
    ("kind", "options"), [("pure-ftpd", ("quota=8000000",)), ("proftpd", ("MaxStoreFileSize 8 Mb",))]
)
async def test_a_quota_that_is_reached_is_said_to_be_reached(kind: Kind, options: Sequence[str]) -> None:
    with serving(kind, *options) as server:
        error = await refused(target(server, "db"), Local(data(12 * MIB)))
        assert "the server says: 552" in error.message
        assert "quota" in error.hint
        assert not error.retryable
        assert server.files("db") == {}


# Servers that are set up otherwise

ANONYMOUS = (
    "anonymous_enable=YES",
    "local_enable=NO",
    "allow_anon_ssl=YES",
    "force_anon_logins_ssl=YES",
    "force_anon_data_ssl=YES",
    "ftp_username=daemon",
    "anon_root={home}/..",  # vsftpd locks anonymous users up, in a folder where they may not write
    "anon_upload_enable=YES",
    "anon_mkdir_write_enable=YES",
    "anon_world_readable_only=NO",
)
REPLACED: Sequence[tuple[Kind, Sequence[str]]] = (
    ("proftpd", ("AllowOverwrite off",)),
    ("proftpd", ("HiddenStores on",)),
    ("proftpd-digest", ("AllowOverwrite off",)),
    ("pure-ftpd", ("-r", "-x")),
    ("pure-ftpd", ("-Y 3",)),
    ("vsftpd", ("strict_ssl_read_eof=YES", "strict_ssl_write_shutdown=YES")),
    ("vsftpd", ("lock_upload_files=NO", "chroot_local_user=YES", "allow_writeable_chroot=YES")),
    ("vsftpd", ("cmds_denied=EPSV",)),
    ("proftpd", ("<Limit EPSV>\nDenyAll\n</Limit>",)),
    ("vsftpd", ("cmds_denied=MLSD,MLST,FEAT",)),
    ("proftpd", ("<Limit FEAT MLSD MLST>\nDenyAll\n</Limit>",)),
    ("vsftpd", ("implicit_ssl=YES",)),
    ("proftpd", ("TLSOptions UseImplicitSSL",)),
)


@pytest.mark.parametrize(("kind", "options"), REPLACED)
async def test_servers_that_are_set_up_otherwise_take_files(kind: Kind, options: Sequence[str]) -> None:
    with serving(kind, *options) as server:
        await stores_and_gives_back(target(server, "db"), server, "db")


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("vsftpd", "pasv_address=203.0.113.9"),
        ("proftpd", "MasqueradeAddress 203.0.113.9"),
        ("pure-ftpd", "-P 203.0.113.9"),
    ],
)
async def test_the_address_in_the_reply_to_pasv_is_not_gone_to(kind: Kind, option: str) -> None:
    with serving(kind, option) as server:
        await stores_and_gives_back(target(server, "db", passive="pasv"), server, "db")


@pytest.mark.parametrize("kind", PLAIN_KINDS)
async def test_ipv6(kind: Kind) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")
    with serving(kind, host="::1") as server:
        await stores_and_gives_back(target(server, "db"), server, "db")


async def test_a_server_that_does_not_rename_stores_nothing() -> None:
    with serving("pure-ftpd", "-G") as server:
        error = await refused(target(server, "db"), Local(b"content"))
        assert "the server says: 550" in error.message
        assert "-G" in error.hint
        assert not error.retryable
        assert server.files("db") == {}


async def test_anonymous_users_may_store_where_they_may_rename() -> None:
    with serving("vsftpd", *ANONYMOUS, "anon_other_write_enable=YES") as server:
        location = target(server, "home/db", user="anonymous", password=None)
        await stores_and_gives_back(location, server, "db")


async def test_where_nobody_may_rename_or_delete_a_part_stays_and_is_named() -> None:
    with serving("vsftpd", *ANONYMOUS) as server:
        error = await refused(target(server, "home/db", user="anonymous", password=None), Local(b"content"))
        assert "the server says: 550" in error.message
        assert "anon_other_write_enable" in error.hint
        assert not error.retryable
        assert not error.part
        (part,) = server.files("db")
        assert part != NAME
        assert part in "".join(error.__notes__)


# Who the server is


CERTIFICATES: Sequence[tuple[Certificate, str]] = (
    ("expired", "expired"),
    ("self-signed", "self-signed"),
    ("misnamed", "mismatch"),
)


@pytest.mark.parametrize(("certificate", "why"), CERTIFICATES)
@pytest.mark.parametrize("kind", PLAIN_KINDS)
async def test_nobody_logs_in_to_a_server_that_proves_nothing(
    kind: Kind, certificate: Certificate, why: str
) -> None:
    with serving(kind, certificate=certificate) as server:
        error = await refused(target(server, "db"), Local(b"content"))
        assert "certificate is not accepted" in error.message
        assert why in error.message
        assert "FTP_CA_FILE" in error.hint
        assert not error.retryable
        assert "USER daemon" not in server.log()  # vsftpd logs every command
        assert server.files() == {}
        trusting = target(server, "db", tls=Tls(verify="off"))
        await stores_and_gives_back(trusting, server, "db")


@pytest.mark.parametrize("tls", VERSIONS)
async def test_a_certificate_may_have_another_name_if_that_is_said(tls: Version) -> None:
    with serving("vsftpd", certificate="misnamed", tls=tls) as server:
        for accepting in (
            Tls(ca_file=server.ca_file, verify="ca"),
            Tls(ca_file=server.ca_file, server_name="elsewhere.example"),
        ):
            await stores_and_gives_back(target(server, "db", tls=accepting), server, "db")


async def test_an_authority_that_is_not_named_is_not_trusted(server: FtpServer) -> None:
    error = await refused(target(server, tls=Tls()), Local(b"content"))
    assert "unable to get local issuer certificate" in error.message


PLAINTEXT: Sequence[tuple[Kind, str]] = (
    ("vsftpd", "ssl_enable=NO"),
    ("proftpd", "TLSEngine off"),
    ("pure-ftpd", "-Y 0"),
)


@pytest.mark.parametrize(("kind", "option"), PLAINTEXT)
async def test_a_server_without_tls_gets_no_password_unless_that_is_asked_for(
    kind: Kind, option: str
) -> None:
    with serving(kind, option) as server:
        error = await refused(target(server, "db"), Local(b"content"))
        assert "beginning TLS" in error.message
        assert "FTP_TLS=off" in error.hint
        assert not error.retryable
        assert "USER daemon" not in server.log()
        await stores_and_gives_back(target(server, "db", tls=Tls(required=False)), server, "db")


@pytest.mark.parametrize("kind", PLAIN_KINDS)
async def test_a_server_that_wants_tls_says_so(servers: Servers, kind: Kind) -> None:
    error = await refused(target(servers(kind), tls=Tls(required=False)), Local(b"content"))
    assert "FTP_TLS=required" in error.hint
    assert not error.retryable


async def test_tls_from_the_first_byte_where_it_is_not_expected() -> None:
    with serving("vsftpd", "implicit_ssl=YES") as server:
        explicit = replace(parse_ftp(server.url()), implicit=False)
        error = await refused(target(server, url=explicit, transfer_timeout=1), Local(b"content"))
        assert "does not greet" in error.message
        assert "ftps://" in error.hint


@pytest.mark.parametrize("kind", PLAIN_KINDS)
async def test_tls_after_the_greeting_where_it_is_not_expected(servers: Servers, kind: Kind) -> None:
    server = servers(kind)
    implicit = replace(parse_ftp(server.url()), implicit=True)
    error = await refused(target(server, url=implicit), Local(b"content"))
    assert "ftp://" in error.hint


# What is compared with other clients


def test_every_client_of_the_benchmark_stores_what_it_is_timed_for(tmp_path: Path) -> None:
    path = tmp_path / "large.sql.gz"
    path.write_bytes(data(MIB))
    (scratch := tmp_path / "scratch").mkdir()
    with serving("vsftpd", tls="1.2") as server:  # by TLS 1.3, curl 7.88 loses small files
        job = upload.Job(server=server, path=path, scratch=scratch)
        present = [who for who in upload.contenders() if Path(who.command(job)[0]).is_absolute()]
        assert {upload.OURS, upload.DIGEST} <= {who.name for who in present}
        upload.check(job, present)
        assert server.files() == {path.name: MIB}
