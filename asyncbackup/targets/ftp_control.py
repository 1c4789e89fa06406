"""The control connection to an FTP server: TLS, login, commands and their replies.

It is aioftp's, but every wait is limited, what a server sends is capped, and no reply that came in clear text
is taken for one that came through TLS.
"""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator
from typing import cast

import aioftp
from aioftp.common import Code

_NEXT_ADDRESS = 0.25  # seconds until the next address of a name is tried, too
_LINE = 8 * 1024  # bytes in a line of a reply
_LINES = 1000  # lines in the replies to one command
_CODE = re.compile(r"[1-6]\d\d", re.ASCII)

Reply = tuple[Code, list[str]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ReplyError(Exception):
    """What the server sent is no reply of FTP, or has no end."""


class ClearTextError(Exception):
    """There is clear text where TLS is to be."""


class SilentError(TimeoutError):
    """A server was connected to, and does not greet."""


class Control(aioftp.Client):
    """A connection to a server; after an error it is out of step with it, and can only be aborted.

    Raises OSError (also for time that is up, and for TLS), aioftp.StatusCodeError for a reply that is not the
    expected one, and the errors above.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None,
        server_name: str,
        connect_timeout: float,
        transfer_timeout: float,
    ) -> None:
        """Take the TLS to speak, or None for clear text, and the name that the certificate must have.

        Limits are in seconds: one for each step of connecting, one for each block and reply.
        """
        # aioftp's own limits are those of asyncio.wait_for, which loses an interrupt that comes with a reply.
        super().__init__(socket_timeout=None)
        self.ssl_context = ssl_context
        self.server_name = server_name
        self.connect_timeout = connect_timeout
        self.transfer_timeout = transfer_timeout
        self._password = ""
        self._lines = 0

    async def connect(  # type: ignore[override]
        self, host: str, port: int = 21, *, implicit: bool = False
    ) -> list[str]:
        """Connect, with TLS from the first byte if it is implicit; return the greeting."""
        await aioftp.BaseClient.connect(self, host, port)
        if implicit:
            await self._start_tls()
        try:
            return (await self.ask(None, "220", wait="120"))[1]
        except TimeoutError as error:
            raise SilentError("connected, but the server does not greet") from error

    async def _open_connection(self, host: str, port: int) -> Streams:
        """Open the control connection; aioftp calls this."""
        async with within(self.connect_timeout, "no connection"):
            reader, writer = await asyncio.open_connection(
                host, port, limit=_LINE, happy_eyeballs_delay=_NEXT_ADDRESS
            )
        watch(writer.get_extra_info("socket"), self.transfer_timeout)
        return reader, writer

    async def upgrade_to_tls(self, sslcontext: ssl.SSLContext | None = None) -> None:
        """Go on with TLS, before logging in; where the server will not, nothing else may be done."""
        self.ssl_context = sslcontext or self.ssl_context
        await self.ask("AUTH TLS", "234")
        await self._start_tls()

    async def _start_tls(self) -> None:
        if self.ssl_context is None:
            raise ClearTextError("there is no TLS to start")
        if _buffered(self.stream.reader):
            raise ClearTextError("the server sent more in clear text where TLS begins")
        await self.stream.writer.start_tls(
            self.ssl_context, server_hostname=self.server_name, ssl_handshake_timeout=self.connect_timeout
        )

    async def login(self, user: str = "anonymous", password: str = "", account: str = "") -> None:  # noqa: ARG002 - as aioftp has it
        """Log in; then have data connections use TLS as well, and files sent as they are."""
        if self.ssl_context is not None and self.tls is None:
            raise ClearTextError("the password would be sent in clear text")
        self._password = password
        code, _ = await self.ask(f"USER {user}", ("2xx", "331"))
        if code == "331":
            await self.ask(f"PASS {password}", "2xx", censor_after=5)
        if self.ssl_context is not None:
            await self.ask("PBSZ 0", "2xx")
            await self.ask("PROT P", "2xx")
        await self.ask("TYPE I", "2xx")

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS of this connection, None while it is in clear text."""
        return cast("ssl.SSLObject | None", self.stream.writer.get_extra_info("ssl_object"))

    async def ask(
        self,
        command: str | None,
        expected: str | tuple[str, ...],
        *,
        wait: str | tuple[str, ...] = (),
        limit: float | None = None,
        censor_after: int | None = None,
    ) -> Reply:
        """Send a command, if any, and return the reply; `limit` are seconds for all of it."""
        self._lines = 0
        async with within(limit or self.transfer_timeout, "no reply"):
            return await self.command(command, expected, wait, censor_after)

    async def move(self, name: str, to: str) -> None:
        """Rename a file."""
        await self.ask(f"RNFR {name}", "350")
        await self.ask(f"RNTO {to}", "2xx")

    async def parse_response(self) -> Reply:
        """Read one reply, of one line or of several; those in between may begin with anything."""
        code, text = await self.parse_line()
        # aioftp takes less than three characters for every code that begins so, none for all of them.
        if _CODE.fullmatch(code) is None:
            raise ReplyError("what answers is no FTP server")
        lines = [text[1:]]
        more = text[:1] == "-"
        while more:
            following, text = await self.parse_line()
            coded = following == code and text[:1] in {"", " ", "-"}
            more = not coded or text[:1] == "-"
            lines.append(text[1:] if coded else following + text)
        return code, [line.strip() for line in lines]

    async def parse_line(self) -> tuple[Code, str]:
        """Read one line; what is not UTF-8 in it is replaced."""
        self._lines += 1
        if self._lines > _LINES:
            raise ReplyError("the server's reply does not end")
        try:
            line = await self.stream.reader.readline()
        except ValueError as error:  # how asyncio says that a line is longer than its limit
            raise ReplyError("the server's reply does not end") from error
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the server has closed the connection")
        text = line.decode(errors="replace").rstrip()
        return Code(text[:3]), text[3:]

    def check_codes(
        self, expected_codes: Code | tuple[Code, ...], received_code: Code, info: list[str]
    ) -> None:
        """Raise StatusCodeError for a reply that is not expected; the password is not repeated in it."""
        if self._password:
            info = [line.replace(self._password, "***") for line in info]
        super().check_codes(expected_codes, received_code, info)

    def abort_connection(self) -> None:
        """End the control connection at once, whatever state it is in."""
        if self._stream is not None:
            self._stream.writer.transport.abort()


def watch(connected: socket.socket, patience: float) -> None:
    """Have the kernel notice a machine that is gone; firewalls forget connections that are quiet.

    `patience` is how long a server may take nothing, in seconds; the kernel's own limit comes after it.
    """
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * patience))


@contextlib.asynccontextmanager
async def within(seconds: float, complaint: str) -> AsyncIterator[None]:
    """Limit the time for a block; raises TimeoutError with the complaint."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(f"{complaint} within {seconds:g} s") from error


def _buffered(reader: asyncio.StreamReader) -> bool:
    """Return whether something was received and not read yet; there must not be any waiting in between."""
    looking = reader.read(1)
    try:
        looking.send(None)
    except StopIteration as found:
        return bool(found.value)
    finally:
        looking.close()
    return False
