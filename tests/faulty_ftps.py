"""The project's own FTP server, made to fail, lie and attack as real ones and what stands before them do."""

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from asyncbackup.samples.ftps_data import Data, RefusedError
from asyncbackup.samples.ftps_server import FtpsServer
from asyncbackup.samples.ftps_session import Session

FOREVER = 3600.0


@dataclass(kw_only=True)
class FaultyServer(FtpsServer):
    """Each of these is a way to misbehave; without any, it is the plain server, and keeps a log."""

    deny: dict[str, str] = field(default_factory=dict)
    """Replies by their command, in place of what it should do."""
    greeting: str = ""
    cut_after: int | None = None
    """Bytes of a transfer after which its data connection is reset; then it does so no more."""
    full_after: int | None = None
    """Bytes of an upload after which there is no room."""
    stall_after: int | None = None
    """Bytes of a transfer after which nothing more is taken or sent."""
    hang_up_after: int | None = None
    """Bytes of an upload after which the data connection is ended properly, and called complete."""
    lose: int = 0
    """Bytes at the end of an upload that are not stored."""
    late: float = 0
    """Seconds until the final reply."""
    injected: str = ""
    """A reply that somebody adds in clear text, right behind the one to AUTH."""
    address: str = ""
    """What PASV says, with commas."""
    keeps: bool = False
    """Whether RNTO is refused where there is a file already."""
    locks: bool = False
    """Whether an upload to a name that is being written gets no reply."""
    silent: dict[str, asyncio.Event] = field(default_factory=dict)
    """Commands that get no reply until `resumed`, and what is set when they came."""
    resumed: asyncio.Event = field(default_factory=asyncio.Event)
    endless: str = ""
    """The command whose reply does not end."""
    data_tls: ssl.SSLContext | None = None
    """The TLS of data connections, where it is another one than elsewhere."""
    plain_data: bool = False
    """Whether data connections are in clear text, whatever was agreed."""
    wrong_digest: bool = False
    listing: Iterable[bytes] | None = None
    """What listings bring in place of what is there."""

    log: list[str] = field(default_factory=list)
    """Commands; without passwords."""
    received: list[int] = field(default_factory=list)
    """Bytes of each upload that has come to its end, one way or another."""
    writing: set[Path] = field(default_factory=set)

    def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Session:
        return FaultySession(self, reader, writer)

    def count(self, command: str) -> int:
        """Return how often a command came."""
        return sum(line.split()[0] == command for line in self.log)


class FaultySession(Session):
    """One client, and the fate of its commands."""

    server: FaultyServer

    async def say(self, *lines: str) -> None:
        if lines[0].startswith("220 ") and self.server.greeting:
            lines = (self.server.greeting,)
        await super().say(*lines)

    async def obey(self, name: str, argument: str) -> None:
        self.server.log.append(name if name == "PASS" else f"{name} {argument}".strip())
        if name in self.server.silent:
            self.server.silent[name].set()
            await self.server.resumed.wait()
        if name == self.server.endless:
            while not self.writer.is_closing():  # asyncio drops what is written then, without an error
                await super().say(*["211-and so on"] * 100)
                await asyncio.sleep(0)
            return
        if name in self.server.deny:
            await self.say(*self.server.deny[name].split("\n"))
        else:
            await super().obey(name, argument)

    async def _on_auth(self, argument: str) -> None:
        if not self.server.injected:
            await super()._on_auth(argument)
            return
        self.writer.write(f"234 Proceed.\r\n{self.server.injected}\r\n".encode())
        assert self.server.tls is not None
        await self.writer.start_tls(self.server.tls)

    async def _on_pasv(self, argument: str) -> None:
        if not self.server.address:
            await super()._on_pasv(argument)
            return
        port = self.listen()
        await self.say(f"227 Passive mode ({self.server.address},{port >> 8},{port & 255})")

    async def _on_rnto(self, argument: str) -> None:
        if self.server.keeps and self.path(argument).exists():
            raise RefusedError("550 Rename permission denied")
        await super()._on_rnto(argument)

    async def sha256(self, file: Path) -> str:
        return "0" * 64 if self.server.wrong_digest else await super().sha256(file)

    async def secure(self, data: Data, tls: ssl.SSLContext) -> None:
        if not self.server.plain_data:
            await super().secure(data, self.server.data_tls or tls)

    async def _on_stor(self, argument: str) -> None:
        path = self.path(argument)
        if self.server.locks and path in self.server.writing:
            await asyncio.sleep(FOREVER)
        self.server.writing.add(path)
        self.server.received.append(0)
        try:
            await super()._on_stor(argument)
        finally:
            self.server.writing.discard(path)

    async def arrived(self, count: int) -> bool:
        self.server.received[-1] = count
        if self.server.full_after is not None and count >= self.server.full_after:
            raise RefusedError("452 Transfer aborted. No space left on device")
        await self._fail(count)
        return self.server.hang_up_after is None or count < self.server.hang_up_after

    async def left(self, count: int) -> None:
        await self._fail(count)

    async def _fail(self, count: int) -> None:
        if self.server.cut_after is not None and count >= self.server.cut_after:
            self.server.cut_after = None
            raise ConnectionResetError
        if self.server.stall_after is not None and count >= self.server.stall_after:
            await asyncio.sleep(FOREVER)

    async def stored(self, path: Path) -> None:
        if self.server.lose:
            with path.open("r+b") as file:
                file.truncate(file.seek(0, os.SEEK_END) - self.server.lose)
        await asyncio.sleep(self.server.late)

    def lines(self, line: Callable[[Path], str]) -> Iterator[bytes]:
        return super().lines(line) if self.server.listing is None else iter(self.server.listing)
