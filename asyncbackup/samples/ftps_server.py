"""A small FTP server over TLS, for the demonstration and the tests: as strict as those that are in use.

TLS on a data connection begins only after the transfer was asked for, must resume the session of the control
connection, and must be ended properly, or what has arrived is not called a file.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from asyncbackup.samples.ftps_session import Served, Session


def certify(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Make an authority of our own, and a certificate of its for the names; return a server's TLS and a file.

    The file holds the authority's certificate, for those who are to trust it. Needs the package trustme.
    """
    import trustme  # noqa: PLC0415 - of the extra `embedded`

    authority = trustme.CA()
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert(*names).configure_cert(context)
    return context, trusted


@dataclass(kw_only=True)
class FtpsServer(Served):
    """A server; tests change what its sessions do."""

    implicit: bool = False
    host: str = "127.0.0.1"
    port: int = 0
    """Any that is free, until it serves."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set, repr=False)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FtpsServer"]:
        """Serve for the block; `port` is known in it."""
        server = await asyncio.start_server(
            self._meet, self.host, self.port, ssl=self.tls if self.implicit else None
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.hang_up()

    async def hang_up(self) -> None:
        """End every connection at once."""
        talking = list(self.tasks)
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self.tasks.add(task)
        try:
            await self.session(reader, writer).run()
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # it left, sends what is no line, or we end
        finally:
            writer.transport.abort()
            self.tasks.discard(task)

    def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> "Session":
        """Return what talks to one client."""
        return Session(self, reader, writer)
