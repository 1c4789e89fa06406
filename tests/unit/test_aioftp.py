"""What we lean on in aioftp, and in asyncio beneath it: a new version of either must not change it unnoticed."""

import asyncio
import importlib.metadata
import inspect
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aioftp
import aioftp.client
import aioftp.common
import pytest

from asyncbackup.targets import ftp, ftp_control

VERSION = "0.28.3"
"""The only version whose inside was read; before another one is named here, read its inside, too."""

PINNED = Path(__file__).parents[2] / "pyproject.toml"


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("aioftp") == VERSION
    assert re.findall(r'"(aioftp[^"]*)"', PINNED.read_text(encoding="utf-8")) == [f"aioftp=={VERSION}"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (aioftp.BaseClient._open_connection, ["self", "host", "port"]),
        (aioftp.BaseClient.connect, ["self", "host", "port"]),
        (aioftp.BaseClient.command, ["self", "command", "expected_codes", "wait_codes", "censor_after"]),
        (aioftp.BaseClient.parse_response, ["self"]),
        (aioftp.BaseClient.parse_line, ["self"]),
        (aioftp.BaseClient.check_codes, ["self", "expected_codes", "received_code", "info"]),
        (aioftp.Client.upgrade_to_tls, ["self", "sslcontext"]),
        (aioftp.Client.login, ["self", "user", "password", "account"]),
        (
            aioftp.Client.get_stream,
            ["self", "command", "expected_codes", "wait_codes", "censor_after", "conn_type", "offset"],
        ),
        (
            aioftp.DataConnectionThrottleStreamIO.__init__,
            ["self", "client", "reader", "writer", "throttles", "timeout", "read_timeout", "write_timeout"],
        ),
        (aioftp.DataConnectionThrottleStreamIO.finish, ["self", "expected_codes", "wait_codes"]),
        (aioftp.common.StreamIO.read, ["self", "count"]),
        (aioftp.common.StreamIO.write, ["self", "data"]),
        (aioftp.common.SSLSessionBoundContext.__init__, ["self", "protocol", "context", "session"]),
        (aioftp.StatusCodeError.__init__, ["self", "expected_codes", "received_codes", "info"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_what_is_called_and_overridden_is_there(function: Callable[..., Any], expected: list[str]) -> None:
    assert parameters(function) == expected


@pytest.mark.parametrize("ours", [ftp_control.Control, ftp.Ftp, ftp.DataStream])
def test_nothing_of_ours_hides_something_of_theirs_by_accident(ours: type) -> None:
    theirs = {
        name for parent in ours.__mro__[1:] if parent.__module__.startswith("aioftp") for name in vars(parent)
    }
    overridden = {
        "connect", "_open_connection", "upgrade_to_tls", "login", "parse_response", "parse_line", "check_codes",
        "get_stream", "read", "write", "finish",
    }  # fmt: skip
    common = set(vars(ours)) & theirs - {name for name in theirs if name.startswith("__")}
    assert common <= overridden


def test_attributes_of_ours_are_none_of_theirs() -> None:
    theirs = set(vars(aioftp.Client()))
    ours = ftp.Ftp(ssl_context=None, server_name="", connect_timeout=1, transfer_timeout=1)
    own = {"ssl_context", "server_name", "connect_timeout", "transfer_timeout", "_password", "_lines"}
    assert set(vars(ours)) - theirs == own
    assert "_stream" in theirs


def test_a_code_of_too_few_digits_matches_everything() -> None:
    """Which is why replies are read by us."""
    assert aioftp.Code("").matches("226")
    assert aioftp.Code("226").matches("2xx")
    assert not aioftp.Code("226").matches("1xx")


def test_a_session_is_resumed_by_a_context_that_asyncio_takes() -> None:
    context = ssl.create_default_context()
    bound = aioftp.common.SSLSessionBoundContext(ssl.PROTOCOL_TLS_CLIENT, context=context, session=None)  # type: ignore[arg-type]
    assert isinstance(bound, ssl.SSLContext)  # asyncio insists on it
    made = bound.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    assert made.context is context


def test_the_password_is_not_written_to_the_log() -> None:
    source = inspect.getsource(aioftp.BaseClient.command)
    assert "censor_after" in source
    assert "stars" in source


async def test_a_buffer_is_looked_into_without_waiting() -> None:
    reader = asyncio.StreamReader()
    assert not ftp_control._buffered(reader)
    reader.feed_data(b"200 injected\r\n")
    assert ftp_control._buffered(reader)
    empty = asyncio.StreamReader()
    waiting = asyncio.ensure_future(empty.readline())
    await asyncio.sleep(0)
    empty.feed_data(b"line\n")
    assert await waiting == b"line\n"
    assert not ftp_control._buffered(empty)
    empty.feed_data(b"line\n")
    assert ftp_control._buffered(empty)


async def test_reading_goes_on_after_a_look_into_an_empty_buffer() -> None:
    reader = asyncio.StreamReader()
    assert not ftp_control._buffered(reader)
    reader.feed_data(b"220 Ready.\r\n")
    assert await reader.readline() == b"220 Ready.\r\n"


async def test_the_kernel_watches_every_connection() -> None:
    with socket.socket() as connected:
        ftp_control.watch(connected, patience=60)
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count, unheard = (
            connected.getsockopt(socket.IPPROTO_TCP, option)
            for option in (
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
                socket.TCP_KEEPCNT,
                socket.TCP_USER_TIMEOUT,
            )
        )
    assert idle + interval * count <= 120
    assert unheard == 120_000


async def test_what_is_sent_to_nobody_is_an_error() -> None:
    """A server that has closed its side is sent nothing more, though the kernel would still take it."""
    here, there = socket.socketpair()
    with there:
        reader, writer = await asyncio.open_connection(sock=here)
        stream = ftp.DataStream(Unheard(), reader, writer, throttles={})
        await stream.write(b"content")
        there.shutdown(socket.SHUT_WR)
        assert await reader.read() == b""
        with pytest.raises(ConnectionResetError, match="the server has closed the data connection"):
            await stream.write(b"more")
        stream.abort()


class Unheard(ftp.Ftp):
    """A client whose server says nothing about what went wrong."""

    def __init__(self) -> None:
        super().__init__(ssl_context=None, server_name="", connect_timeout=1, transfer_timeout=1)

    async def reason(self, error: OSError) -> Exception:
        return error


async def test_what_is_buffered_at_the_end_is_given_time_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio throws it away half a minute after the end, which is not enough for a slow line."""
    asked = {}

    async def open_connection(**parameters: Any) -> None:
        asked.update(parameters)

    class Encrypted(Unheard):
        tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")

    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    with socket.socket() as connected:
        await Encrypted()._open_data(connected)
    assert asked["ssl_shutdown_timeout"] >= ftp.FINAL_REPLY
    assert asked["ssl_handshake_timeout"] > 1  # it begins before the server has replied
