"""Whom the FTP location trusts: before it says a password, and in every reply after that."""

import asyncio
import contextlib
import datetime as dt
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from asyncbackup.errors import TargetError
from asyncbackup.model import Secret
from asyncbackup.samples.ftps_server import certify
from asyncbackup.targets.ftps import Tls
from asyncbackup.targets.url import parse_ftp
from tests.ftp_places import MIB, NAME, PASSWORD, Authority, Place, fetch, served, upload

YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


def nothing_was_said(place: Place) -> bool:
    """Return whether nothing went to the server but the question for TLS."""
    return set(place.server.log) <= {"AUTH TLS"}


# Certificates


@contextlib.asynccontextmanager
async def certified(tmp_path: Path, scheme: str, *names: str, **more: Any) -> AsyncIterator[Place]:
    """Run a server with a certificate for these names."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    async with served(
        Authority(context, tmp_path / "authority.pem"), tmp_path, implicit=scheme == "ftps"
    ) as place:
        yield place


@pytest.mark.parametrize("scheme", ["ftp", "ftps"])
async def test_a_certificate_that_nobody_trusted_has_signed_is_refused(tmp_path: Path, scheme: str) -> None:
    async with certified(tmp_path, scheme, "127.0.0.1") as place:
        error = await place.refusal(scheme=scheme, tls=Tls())
        assert "certificate is not accepted: unable to get local issuer certificate" in error.message
        assert "FTP_CA_FILE" in error.hint
        assert not error.retryable
        assert nothing_was_said(place)


@pytest.mark.parametrize("scheme", ["ftp", "ftps"])
async def test_a_certificate_of_another_name_is_refused_unless_that_name_is_expected(
    tmp_path: Path, scheme: str
) -> None:
    async with certified(tmp_path, scheme, "ftp.example.org") as place:
        trusting = Tls(ca_file=place.authority.file)
        error = await place.refusal(scheme=scheme, tls=trusting)
        assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in error.message
        assert "FTP_SERVER_NAME" in error.hint
        assert not error.retryable
        assert nothing_was_said(place)
        for tls in (replace(trusting, server_name="ftp.example.org"), replace(trusting, verify="ca")):
            await place.put(upload(b"content"), scheme=scheme, tls=tls)
        error = await place.refusal(scheme=scheme, tls=replace(trusting, server_name="example.org"))
        assert "Hostname mismatch" in error.message


async def test_a_certificate_that_has_expired_is_refused_whatever_its_name(tmp_path: Path) -> None:
    async with certified(tmp_path, "ftp", "127.0.0.1", not_after=YESTERDAY) as place:
        for verify in ("full", "ca"):
            tls = Tls(ca_file=place.authority.file, verify=verify)
            assert "certificate has expired" in (await place.refusal(tls=tls)).message
        assert nothing_was_said(place)
        await place.put(upload(b"content"), tls=Tls(verify="off"))


async def test_only_what_is_asked_for_is_not_checked(place: Place) -> None:
    assert "local issuer" in (await place.refusal(tls=Tls(verify="ca"))).message
    assert "local issuer" in (await place.refusal(tls=Tls(server_name="localhost"))).message
    await place.put(upload(b"content"), tls=Tls(verify="off", ca_file=Path("/not/there")))


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file or directory"), (b"", "no certificate"), (b"garbage\0\xff", "no certificate")],
)
async def test_a_file_without_certificates_is_named(
    place: Place, tmp_path: Path, content: bytes | None, why: str
) -> None:
    file = tmp_path / "trusted.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TargetError) as caught:
        async with place.target(tls=Tls(ca_file=file)).connect():
            pass
    assert caught.value.message.startswith(f"{file}: ")
    assert why in caught.value.message
    assert "FTP_CA_FILE" in caught.value.hint
    assert place.server.log == []


# TLS, or nothing


@pytest.mark.parametrize("reply", ["530 Please login with USER and PASS.", "502 'auth' not implemented"])
async def test_without_tls_nothing_is_said_in_clear_text(place: Place, reply: str) -> None:
    place.server.deny["AUTH"] = reply
    error = await place.refusal(upload(b"content"))
    assert not error.retryable
    assert nothing_was_said(place)
    assert "FTP_TLS=off" in error.hint
    assert reply in error.message


async def test_a_busy_server_is_not_taken_for_one_without_tls(place: Place) -> None:
    place.server.deny["AUTH"] = "421 Too many connections."
    error = await place.refusal()
    assert error.retryable
    assert not error.hint


async def test_replies_in_clear_text_are_not_taken_for_those_after_tls(place: Place) -> None:
    place.server.injected = "230 Welcome, no password is needed.\r\n200 PBSZ\r\n200 PROT"
    error = await place.refusal(upload(b"content"))
    assert "in clear text where TLS begins" in error.message
    assert not error.retryable
    assert nothing_was_said(place)


async def test_data_in_clear_text_is_refused(place: Place) -> None:
    place.server.plain_data = True
    error = await place.refusal(upload(b"a secret" * MIB), connect_timeout=2, transfer_timeout=2)
    assert error.message.startswith(f"{place.target().label}: storing")
    assert all(b"a secret" not in content for content in place.files().values())


async def test_data_connections_prove_who_they_lead_to(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    place.server.data_tls, _ = certify(tmp_path / "other", "127.0.0.1")
    error = await place.refusal(upload(b"content"))
    assert "certificate is not accepted" in error.message
    assert not error.retryable


async def test_a_server_of_old_versions_of_tls_is_refused(tmp_path: Path) -> None:
    authority = Authority(*certify(tmp_path, "127.0.0.1"))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        authority.tls.minimum_version = authority.tls.maximum_version = ssl.TLSVersion.TLSv1_1
    authority.tls.set_ciphers("DEFAULT:@SECLEVEL=0")
    async with served(authority, tmp_path) as place:
        error = await place.refusal()
    assert "TLS 1.2" in error.hint
    assert nothing_was_said(place)


async def test_a_server_that_wants_tls_says_so_to_who_does_without(place: Place) -> None:
    error = await place.refusal(tls=Tls(required=False))
    assert "530 TLS is required." in error.message
    assert "FTP_TLS=required" in error.hint
    assert "PASS" not in place.server.log


async def test_implicit_tls_where_the_server_waits_for_auth(place: Place) -> None:
    error = await place.refusal(scheme="ftps")
    assert "begins with ftp://" in error.hint
    assert not error.retryable


async def test_auth_where_the_server_waits_for_tls(authority: Authority, tmp_path: Path) -> None:
    async with served(authority, tmp_path, implicit=True) as place:
        error = await place.refusal(transfer_timeout=1)
        assert "does not greet" in error.message
        assert "begins with ftps://" in error.hint


# Logging in


@pytest.mark.parametrize(("user", "password"), [("backup", "wrong"), ("nobody", PASSWORD), ("backup", "")])
async def test_a_wrong_login_is_not_tried_again(place: Place, user: str, password: str) -> None:
    error = await place.refusal(user=user, password=Secret(password))
    assert f"logging in as {user}: the server says: 530 Login incorrect." in error.message
    assert "FTP_USER and FTP_PASSWORD" in error.hint
    assert not error.retryable


async def test_who_has_no_user_is_anonymous(authority: Authority, tmp_path: Path) -> None:
    async with served(authority, tmp_path, user="anonymous", password=Secret("anonymous@")) as place:
        await place.put(upload(b"content"), user="", password=None)


async def test_who_has_no_password_is_not_anonymous(authority: Authority, tmp_path: Path) -> None:
    async with served(authority, tmp_path, password=Secret("")) as place:
        await place.put(upload(b"content"), password=None)


async def test_a_password_that_cannot_be_said_is_not_shown(place: Place) -> None:
    for odd in ("secret\udcff", "secret\r\nDELE x"):
        error = await place.refusal(password=Secret(odd))
        assert not error.retryable
        assert "secret" not in everything(error)
    assert "PASS" not in place.server.log
    assert "DELE x" not in place.server.log


def everything(error: BaseException | None) -> str:
    """Return all that an error says, and those that led to it."""
    said = ""
    while error is not None:
        said += f"{error!r} {error} {getattr(error, 'hint', '')} {getattr(error, '__notes__', '')}\n"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return said


@pytest.mark.parametrize("command", ["USER", "PASS", "PBSZ", "CWD", "STOR", "SIZE", "RNTO", "DELE", "MLSD"])
async def test_a_password_that_the_server_repeats_is_not_shown(
    place: Place, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    if command == "CWD":
        place.path = "folder"
    place.server.deny[command] = f"599-Do you know {PASSWORD}?\n599 Who does not know {PASSWORD}!"
    target = place.target()

    async def use() -> None:
        async with target.connect() as remote:
            await remote.put(upload(b"content"))
            await remote.list()
            await remote.delete(NAME)

    with pytest.raises(TargetError) as caught:
        await use()
    assert "Who does not know ***!" in caught.value.message
    shown = everything(caught.value) + repr(target) + target.label + caplog.text
    assert PASSWORD not in shown


# Attacks by replies


@pytest.mark.parametrize(
    ("greeting", "complaint"),
    [
        ("HTTP/1.1 400 Bad Request", "no FTP server"),
        ("SSH-2.0-OpenSSH_9.2", "no FTP server"),
        ("", "no FTP server"),
        ("2", "no FTP server"),
        ("220-" + "x" * 100_000, "does not end"),
        ("220-and so on\r\n" * 2000, "does not end"),
        ("120 wait\r\n" * 2000, "does not end"),
        ("421 Too many connections.", "421 Too many connections."),
    ],
)
async def test_a_greeting_that_is_none(place: Place, greeting: str, complaint: str) -> None:
    place.server.greeting = greeting or "\r\n"
    error = await place.refusal()
    assert complaint in error.message
    assert error.retryable is greeting.startswith("421")
    assert place.server.log == []


@pytest.mark.parametrize("command", ["AUTH", "USER", "PASS", "FEAT", "SIZE", "EPSV", "XSHA256"])
async def test_a_reply_without_end_is_an_error(place: Place, command: str) -> None:
    place.server.endless = command
    error = await place.refusal(upload(b"content"))
    assert "does not end" in error.message
    assert not error.retryable
    assert NAME not in place.files()


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("EPSV", "229 (|||0|)"),
        ("EPSV", "229 (|||65536|)"),
        ("EPSV", "229 Entering"),
        ("EPSV", "229 (|1|127.0.0.1|21|)"),
        ("PASV", "227 (127,0,0,1,256,0)"),
        ("PASV", "227 (127,0,0,1,0,0)"),
        ("PASV", "227"),
        ("SIZE", "213 -1"),
        ("SIZE", "213 " + "9" * 5000),
        ("SIZE", "213 ٣"),
        ("SIZE", "213"),
        ("XSHA256", "250 none"),
        ("FEAT", "211"),
    ],
)
async def test_a_reply_that_makes_no_sense_is_an_error_of_the_location(
    place: Place, command: str, reply: str
) -> None:
    place.server.deny[command] = reply
    harmless = command in {"XSHA256", "FEAT"}  # the server then has no hash to offer
    if harmless:
        await place.put(upload(b"content"))
    else:
        error = await place.refusal(upload(b"content"), passive="pasv" if command == "PASV" else "auto")
        assert error.message
        assert NAME not in place.files()


async def test_control_characters_of_a_reply_are_not_shown(place: Place) -> None:
    place.server.deny["PASS"] = "530 \x1b]0;title\x07 \x9b2J no" + "!" * 2000
    error = await place.refusal()
    assert "no!" in error.message
    assert error.message.isprintable()
    assert len(error.message) < 500


# Servers that are not there


async def test_a_server_that_is_not_there_may_be_tried_again(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    target = replace(place.target(), url=parse_ftp(f"ftp://127.0.0.1:{port}/"))
    with pytest.raises(TargetError) as caught:
        async with target.connect():
            pass
    assert "Connection refused" in caught.value.message
    assert caught.value.retryable


async def test_a_name_that_is_not_there_may_be_tried_again(place: Place) -> None:
    target = replace(place.target(), url=parse_ftp("ftp://no-such-host.invalid/"))
    with pytest.raises(TargetError) as caught:
        async with target.connect():
            pass
    assert "cannot be resolved" in caught.value.message
    assert caught.value.retryable


async def test_a_name_s_dead_address_does_not_keep_from_the_living_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = place.server.port
    addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")
    ]

    async def found(*_: object, **__: object) -> list[Any]:
        return addresses

    with contextlib.ExitStack() as stack:
        dead = stack.enter_context(socket.socket())
        dead.bind(addresses[0][4])
        dead.listen(0)
        for _ in range(4):  # once its queue is full, the kernel does not answer any more
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(addresses[0][4])
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        target = replace(place.target(), url=parse_ftp(f"ftp://localhost:{port}/"), connect_timeout=5)
        async with target.connect() as remote:
            assert await remote.list() == {}


async def test_a_server_may_have_an_address_of_version_6(authority: Authority, tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with served(authority, tmp_path, host="::1") as place:
        tls = Tls(ca_file=authority.file, server_name="localhost")
        target = replace(place.target(tls=tls), url=parse_ftp(f"ftp://[::1]:{place.server.port}/"))
        async with target.connect() as remote:
            await remote.put(upload(b"content"))
        assert await fetch(target) == b"content"


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def behaving(behaviour: Behaviour) -> AsyncIterator[str]:
    """Run a server that is none."""
    tasks = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        await behaviour(reader, writer)

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    async with server:
        yield f"ftp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        await asyncio.gather(*filter(None, tasks))


async def test_a_server_that_drips_is_not_waited_for_for_ever(place: Place) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"120-wait\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.transport.abort()

    async with behaving(drip) as url:
        started = time.monotonic()
        with pytest.raises(TargetError) as caught:
            async with replace(place.target(), url=parse_ftp(url), transfer_timeout=0.5).connect():
                pass
        assert "does not greet" in caught.value.message
        assert time.monotonic() - started < 20


async def test_a_server_that_hangs_up_at_once_may_be_tried_again(place: Place) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with behaving(hang_up) as url:
        with pytest.raises(TargetError) as caught:
            async with replace(place.target(), url=parse_ftp(url)).connect():
                pass
        assert caught.value.retryable


async def test_a_data_port_that_is_closed_says_what_to_look_for(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    place.server.deny["EPSV"] = f"229 (|||{port}|)"
    error = await place.refusal(upload(b"content"))
    assert f"port {port} for data" in error.message
    assert "FTP_PASSIVE=pasv" in error.hint
    assert error.retryable
