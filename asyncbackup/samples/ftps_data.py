"""A data connection of the small FTP server: in clear text, or by a TLS that knows how it was ended."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import TypeVar

BLOCK = 256 * 1024
PATIENCE = 60.0
"""Seconds for a data connection to come, and to begin TLS."""

_ABRUPTLY = struct.pack("ii", 1, 0)
_T = TypeVar("_T")


class RefusedError(Exception):
    """A reply that says no; its text begins with the code."""


class Data:
    """A data connection: in clear text until `secure`."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(0)
        self._socket = connected
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    async def secure(self, context: ssl.SSLContext) -> None:
        """Begin TLS; raises RefusedError where no session is resumed."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        async with asyncio.timeout(PATIENCE):
            await self._until_done(self._tls.do_handshake)
        if not self._tls.session_reused:
            raise RefusedError("522 SSL connection failed: session reuse required")

    async def receive(self) -> bytes:
        """Return what comes, nothing at its proper end; raises OSError for any other."""
        if self._tls is None:
            return await asyncio.get_running_loop().sock_recv(self._socket, BLOCK)
        tls = self._tls
        try:
            return await self._until_done(lambda: tls.read(BLOCK))
        except ssl.SSLZeroReturnError:
            return b""

    async def send(self, block: bytes) -> None:
        """Send a block."""
        if self._tls is None:
            await asyncio.get_running_loop().sock_sendall(self._socket, block)
        else:
            tls = self._tls
            await self._until_done(lambda: tls.write(block))

    async def close(self) -> None:
        """End the connection properly; what the other side makes of that does not matter."""
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(self._socket, self._outgoing.read())
        self._socket.close()

    def abort(self) -> None:
        """End the connection with a reset."""
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPTLY)
        self._socket.close()

    async def _until_done(self, step: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self._socket, self._outgoing.read())
            else:
                await loop.sock_sendall(self._socket, self._outgoing.read())
                return result
            if received := await loop.sock_recv(self._socket, BLOCK):
                self._incoming.write(received)
            else:
                self._incoming.write_eof()
