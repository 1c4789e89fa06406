"""An FTP client for servers as they are: aioftp's, with data connections of its own.

aioftp finishes the TLS handshake of a data connection and then sends STOR. The servers in use begin theirs
after STOR, so that both sides wait until time is up. Here the handshake runs while the server is asked, and
resumes the session of the control connection, as the same servers demand. And a transfer that failed never
ends as one that is complete does.
"""

import asyncio
import contextlib
import functools
import re
import socket
import ssl
import struct
from types import TracebackType
from typing import cast

import aioftp
from aioftp.client import ConnType
from aioftp.common import SSLSessionBoundContext, async_enterable

from asyncbackup import threads
from asyncbackup.targets.ftp_control import Control, ReplyError, Streams, watch, within
from asyncbackup.targets.target import BLOCK

FINAL_REPLY = 600.0
"""Seconds for the reply to a transfer: buffers drain, and servers sync or scan what they got."""

_REASON = 10.0  # seconds for the reply that says why a data connection broke
_GOODBYE = 10.0  # seconds for the end of a data connection whose transfer is acknowledged already
_NEVER_CLEANLY = struct.pack("ii", 1, 0)  # linger for no time: what is closed ends with a reset
_PORTS = {
    "EPSV": ("229", re.compile(r"\((.)\1\1(?P<low>\d{1,5})\1\)", re.ASCII)),
    "PASV": ("227", re.compile(r"\d{1,3}(,\d{1,3}){3},(?P<high>\d{1,3}),(?P<low>\d{1,3})", re.ASCII)),
}
_HIGHEST_PORT = 65535
_BEGINS = 3  # turns of the event loop until a connection has begun: its task's, and its protocol's


class DataPortError(ConnectionError):
    """The port that the server has named for a data connection cannot be reached."""


class DataStream(aioftp.DataConnectionThrottleStreamIO):
    """A data connection; on leaving its block it is finished, or after an error aborted."""

    client: "Ftp"
    finished = False
    """Whether it has ended well, and the server has acknowledged that."""

    async def write(self, data: bytes) -> None:
        """Send a block; when the connection has broken, raises what the server says about it."""
        try:
            async with within(self.client.transfer_timeout, "the server took nothing"):
                await super().write(data)
        except OSError as error:
            raise await self.client.reason(error) from error
        # Once the server has closed its side, asyncio drops what is written, and tells nobody.
        if self.writer.is_closing() or self.reader.at_eof():
            closed = ConnectionResetError("the server has closed the data connection")
            raise await self.client.reason(closed) from closed

    async def read(self, count: int = -1) -> bytes:
        """Receive a block, empty at the end; when the connection has broken, raises the server's reply."""
        try:
            async with within(self.client.transfer_timeout, "the server sent nothing"):
                return await super().read(count)
        except OSError as error:
            raise await self.client.reason(error) from error

    async def finish(
        self, expected_codes: str | tuple[str, ...] = "2xx", wait_codes: str | tuple[str, ...] = "1xx"
    ) -> None:
        """End the connection as one ends that is complete, and wait for the server to acknowledge it."""
        try:
            # Closing again what the server has closed would take asyncio's transport apart.
            if not self.writer.is_closing():
                self.close()  # sends what is buffered, and TLS's close_notify
            await self.client.ask(None, expected_codes, wait=wait_codes, limit=FINAL_REPLY)
            self.finished = True
            with contextlib.suppress(OSError):  # how it closes does not matter any more
                async with asyncio.timeout(_GOODBYE):
                    await self.writer.wait_closed()
        finally:
            self.abort()

    def abort(self) -> None:
        """End the connection so that no server takes what it got for a whole file."""
        connected = cast("socket.socket | None", self.writer.get_extra_info("socket"))
        if connected is not None and connected.fileno() >= 0:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NEVER_CLEANLY)
        self.writer.transport.abort()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is None:
            await self.finish()
        else:
            self.abort()
            self.client.abort_connection()


class Ftp(Control):
    """A connection to a server, and those that it opens for data."""

    passive: tuple[str, ...] = tuple(_PORTS)
    """The commands that ask for a data connection, in their order."""

    async def reason(self, error: OSError) -> Exception:
        """Return what the server says about a data connection that broke, or else the error itself."""
        try:
            await self.ask(None, "2xx", wait="1xx", limit=min(_REASON, self.transfer_timeout))
        except aioftp.StatusCodeError as reply:
            return reply
        except (OSError, ReplyError):
            return error
        return error

    @async_enterable
    async def get_stream(
        self,
        command: str | None = None,
        expected_codes: str | tuple[str, ...] = (),
        wait_codes: str | tuple[str, ...] = (),
        censor_after: int | None = None,
        conn_type: ConnType = "I",  # noqa: ARG002 - as aioftp has it; the login has set the type
        offset: int = 0,
    ) -> DataStream:
        """Open a data connection for a command; aioftp's upload_stream and download_stream call this."""
        connected = await self._connect_data()
        opening = asyncio.ensure_future(self._open_data(connected))
        try:
            if offset:
                await self.ask(f"REST {offset}", "350")
            await self.ask(command, expected_codes, wait=wait_codes, censor_after=censor_after)
            try:
                reader, writer = await opening
            except ssl.SSLCertVerificationError:
                raise
            except OSError as error:
                raise await self.reason(error) from error
        except BaseException:
            opening.add_done_callback(functools.partial(_discard, connected))
            try:
                await threads.see_through(asyncio.ensure_future(_begun()))
            finally:
                opening.cancel()
                await asyncio.wait([opening])
            raise
        return DataStream(self, reader, writer, throttles={"_": self.throttle})

    async def _connect_data(self) -> socket.socket:
        """Connect to a port of the very machine that the control connection leads to, as yet without TLS."""
        peer = cast("tuple[str, int]", self.stream.writer.get_extra_info("peername"))
        port = await self._passive_port()
        connected = socket.socket(socket.AF_INET6 if ":" in peer[0] else socket.AF_INET)
        try:
            connected.settimeout(0)
            # Else the end of TLS waits for the last data to be acknowledged: 40 ms for each small file.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            watch(connected, self.transfer_timeout)
            async with within(self.connect_timeout, "no connection"):
                await asyncio.get_running_loop().sock_connect(connected, (peer[0], port, *peer[2:]))
        except OSError as error:
            connected.close()
            raise DataPortError(f"its port {port} for data: {error}") from error
        except BaseException:
            connected.close()
            raise
        return connected

    async def _passive_port(self) -> int:
        for command in self.passive:
            expected, pattern = _PORTS[command]
            try:
                _, lines = await self.ask(command, expected)
            except aioftp.StatusCodeError as refusal:
                if command == self.passive[-1] or not refusal.received_codes[-1].matches("5xx"):
                    raise
                continue
            self.passive = (command,)
            found = pattern.search(lines[-1])
            port = int(found["low"]) + 256 * int(found.groupdict().get("high") or 0) if found else 0
            if not 0 < port <= _HIGHEST_PORT:
                raise ReplyError(f"the server's reply to {command} names no port")
            return port
        raise ValueError("no command to ask for a data connection with")

    async def _open_data(self, connected: socket.socket) -> Streams:
        """Make the socket a data connection; the handshake lasts until the server has begun, too."""
        tls = self.tls
        if tls is None:
            return await asyncio.open_connection(sock=connected, limit=BLOCK)
        return await asyncio.open_connection(
            sock=connected,
            limit=BLOCK,
            # The session is looked at as late as this, for TLS 1.3 sends it some time after the handshake.
            ssl=SSLSessionBoundContext(
                ssl.PROTOCOL_TLS_CLIENT, tls.context, cast("ssl.SSLSession", tls.session)
            ),
            server_hostname=self.server_name,
            ssl_handshake_timeout=self.transfer_timeout + self.connect_timeout,
            ssl_shutdown_timeout=FINAL_REPLY,  # what is buffered is thrown away then
        )


async def _begun() -> None:
    """Let asyncio begin what it was asked for: it never closes a connection that is cancelled before."""
    for _ in range(_BEGINS):
        await asyncio.sleep(0)


def _discard(connected: socket.socket, opening: asyncio.Future[Streams]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].transport.abort()
    connected.close()
