"""What the small FTP server does for one client: commands and their replies, on a real folder."""

import asyncio
import contextlib
import errno
import hashlib
import hmac
import posixpath
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asyncbackup.model import Secret
from asyncbackup.samples.ftps_data import BLOCK, PATIENCE, Data, RefusedError


@dataclass(kw_only=True)
class Served:
    """What is served, to whom, and how."""

    folder: Path
    user: str
    password: Secret
    tls: ssl.SSLContext | None
    """None for a server that knows only clear text."""
    features: tuple[str, ...] = (
        "SIZE",
        "REST STREAM",
        "MLST type*;size*;modify*;",
        "XSHA256",
        "HASH SHA-256*",
    )
    """What is offered beyond the old standard."""


class Session:
    """One client's control connection, and where it stands."""

    def __init__(self, server: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader, self.writer = reader, writer
        self.user = ""
        self.inside = self.leaving = False
        self.protected = False
        self.binary = False
        self.directory = "/"
        self.offset = 0
        self.renaming: Path | None = None
        self.listener: socket.socket | None = None

    async def run(self) -> None:
        """Greet, and obey until the client leaves."""
        await self.say("220 Ready.")
        try:
            while not self.leaving and (line := await self.reader.readline()):
                name, _, argument = line.decode(errors="surrogateescape").rstrip("\r\n").partition(" ")
                await self.obey(name.upper(), argument)
        finally:
            self.stop_listening()

    async def say(self, *lines: str) -> None:
        """Send a reply."""
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode(errors="surrogateescape"))
        await self.writer.drain()

    async def obey(self, name: str, argument: str) -> None:
        """Do what a command says, or say why not."""
        does = getattr(self, f"_on_{name.lower()}", None)
        try:
            if does is None or not name.isalnum():
                await self.say("500 Unknown command.")
            elif not self.inside and name not in {"AUTH", "USER", "PASS", "PBSZ", "PROT", "FEAT", "QUIT"}:
                await self.say("530 Please login with USER and PASS.")
            else:
                await does(argument)
        except RefusedError as refusal:
            await self.say(str(refusal))
        except FileNotFoundError:
            await self.say("550 No such file or directory.")
        except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError, ValueError):
            await self.say("550 Permission denied.")

    # Logging in

    async def _on_auth(self, argument: str) -> None:
        if argument.upper() != "TLS" or self.server.tls is None or self._encrypted:
            raise RefusedError("502 No such security here.")
        await self.say("234 Proceed.")
        await self.writer.start_tls(self.server.tls)

    async def _on_user(self, argument: str) -> None:
        if self.server.tls is not None and not self._encrypted:
            raise RefusedError("530 TLS is required.")
        self.user, self.inside = argument, False
        await self.say("331 Password, please.")

    async def _on_pass(self, argument: str) -> None:
        known = hmac.compare_digest(argument.encode(), self.server.password.reveal().encode())
        if not known or self.user != self.server.user:
            raise RefusedError("530 Login incorrect.")
        self.inside = True
        await self.say("230 Welcome.")

    async def _on_pbsz(self, _argument: str) -> None:
        await self.say("200 PBSZ=0")

    async def _on_prot(self, argument: str) -> None:
        self.protected = argument == "P"
        await self.say("200 So be it.")

    async def _on_feat(self, _argument: str) -> None:
        await self.say("211-Features:", *(f" {feature}" for feature in self.server.features), "211 End")

    async def _on_quit(self, _argument: str) -> None:
        self.leaving = True
        await self.say("221 Goodbye.")

    async def _on_noop(self, _argument: str) -> None:
        await self.say("200 Nothing done.")

    async def _on_type(self, argument: str) -> None:
        self.binary = argument == "I"
        await self.say("200 So be it.")

    @property
    def _encrypted(self) -> bool:
        return self.writer.get_extra_info("ssl_object") is not None

    # Folders and files

    def path(self, argument: str) -> Path:
        """Return what a name stands for; `..` leads no further than to the folder that is served."""
        return self.server.folder / self._virtual(argument).lstrip("/")

    def _virtual(self, argument: str) -> str:
        return "/" + posixpath.normpath(posixpath.join(self.directory, argument)).lstrip("/")

    async def _on_pwd(self, _argument: str) -> None:
        await self.say(f'257 "{self.directory}"')

    async def _on_cwd(self, argument: str) -> None:
        if not self.path(argument).is_dir():
            raise RefusedError("550 Failed to change directory.")
        self.directory = self._virtual(argument)
        await self.say("250 Directory changed.")

    async def _on_mkd(self, argument: str) -> None:
        self.path(argument).mkdir()
        await self.say(f'257 "{self._virtual(argument)}" created')

    async def _on_dele(self, argument: str) -> None:
        self.path(argument).unlink()
        await self.say("250 Deleted.")

    async def _on_rnfr(self, argument: str) -> None:
        self.renaming = self._file(argument)
        await self.say("350 Where to?")

    async def _on_rnto(self, argument: str) -> None:
        if self.renaming is None:
            raise RefusedError("503 RNFR first.")
        self.renaming.replace(self.path(argument))
        await self.say("250 Renamed.")

    async def _on_size(self, argument: str) -> None:
        if not self.binary:
            raise RefusedError("550 SIZE not allowed in ASCII mode")
        await self.say(f"213 {self._file(argument).stat().st_size}")

    async def _on_opts(self, argument: str) -> None:
        if argument.upper() != "HASH SHA-256":
            raise RefusedError("501 No such option.")
        await self.say("200 SHA-256")

    async def _on_hash(self, argument: str) -> None:
        file = self._hashable("HASH", argument)
        size, digest = file.stat().st_size, await self.sha256(file)
        await self.say(f"213 SHA-256 0-{size} {digest} {argument}")

    async def _on_xsha256(self, argument: str) -> None:
        digest = await self.sha256(self._hashable("XSHA256", argument))
        await self.say("250-Computing SHA256 digest", f" {digest.upper()}", "250 Done.")

    async def sha256(self, file: Path) -> str:
        """Compute a file's hash."""

        def compute() -> str:
            with file.open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()

        return await asyncio.to_thread(compute)

    def _hashable(self, feature: str, argument: str) -> Path:
        if not any(offered.startswith(feature) for offered in self.server.features):
            raise RefusedError("500 Unknown command.")
        return self._file(argument)

    def _file(self, argument: str) -> Path:
        path = self.path(argument)
        if not path.is_file():
            raise RefusedError("550 No such file.")
        return path

    # Transfers

    def listen(self) -> int:
        """Wait for a data connection; return the port."""
        self.stop_listening()
        here = self.writer.get_extra_info("sockname")[0]
        family = socket.AF_INET6 if ":" in here else socket.AF_INET
        self.listener = socket.create_server((here, 0), family=family)
        self.listener.settimeout(0)
        port: int = self.listener.getsockname()[1]
        return port

    def stop_listening(self) -> None:
        """Wait for no data connection any more."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    async def _on_epsv(self, _argument: str) -> None:
        await self.say(f"229 Extended passive mode (|||{self.listen()}|)")

    async def _on_pasv(self, _argument: str) -> None:
        port = self.listen()
        address = self.writer.get_extra_info("sockname")[0].replace(".", ",")
        await self.say(f"227 Passive mode ({address},{port >> 8},{port & 255})")

    async def _on_rest(self, argument: str) -> None:
        self.offset = int(argument) if re.fullmatch(r"\d{1,18}", argument) else 0
        await self.say("350 Restarting there.")

    @contextlib.asynccontextmanager
    async def transfer(self) -> AsyncIterator[Data]:
        """Open the data connection for a block, and say how it went."""
        if self.server.tls is not None and not self.protected:
            raise RefusedError("522 Data connections must be encrypted.")
        if self.listener is None:
            raise RefusedError("425 Use PASV first.")
        await self.say("150 Here it goes.")
        try:
            async with asyncio.timeout(PATIENCE):
                connected, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        except TimeoutError:
            raise RefusedError("425 Nobody came.") from None
        finally:
            self.stop_listening()
        data = Data(connected)
        try:
            if self.server.tls is not None:
                await self.secure(data, self.server.tls)
            yield data
            await data.close()
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise RefusedError(
                "452 No space left on device." if full else "426 Failure on the data connection."
            ) from None
        finally:
            data.abort()
        await self.say("226 Transfer complete.")

    async def _on_stor(self, argument: str) -> None:
        path, offset, self.offset = self.path(argument), self.offset, 0
        with path.open("r+b" if offset and path.exists() else "wb") as file:
            file.seek(offset)
            async with self.transfer() as data:
                while block := await data.receive():
                    file.write(block)
                    if not await self.arrived(file.tell() - offset):
                        break
                file.flush()
                await self.stored(path)

    async def secure(self, data: Data, tls: ssl.SSLContext) -> None:
        """Begin TLS on a data connection."""
        await data.secure(tls)

    async def arrived(self, count: int) -> bool:  # noqa: ARG002 - tests look at it
        """Return whether to go on, with so many bytes of a file; for tests to interfere."""
        return True

    async def stored(self, path: Path) -> None:
        """Take notice of a file that has come whole; for tests to interfere."""

    async def _on_retr(self, argument: str) -> None:
        path, offset, self.offset = self._file(argument), self.offset, 0
        with path.open("rb") as file:
            file.seek(offset)
            async with self.transfer() as data:
                while block := file.read(BLOCK):
                    await data.send(block)
                    await self.left(file.tell() - offset)

    async def left(self, count: int) -> None:
        """Take notice of the bytes that were sent so far; for tests to interfere."""

    async def _on_list(self, _argument: str) -> None:
        await self._send_lines(_long)

    async def _on_nlst(self, _argument: str) -> None:
        await self._send_lines(lambda path: path.name)

    async def _on_mlsd(self, _argument: str) -> None:
        if not any(feature.startswith("MLST") for feature in self.server.features):
            raise RefusedError("500 Unknown command.")
        await self._send_lines(_facts)

    async def _send_lines(self, line: Callable[[Path], str]) -> None:
        async with self.transfer() as data:
            for block in self.lines(line):
                await data.send(block)

    def lines(self, line: Callable[[Path], str]) -> Iterator[bytes]:
        """Yield a listing of the current folder."""
        for path in sorted(self.path("").iterdir()):
            yield f"{line(path)}\r\n".encode(errors="surrogateescape")


def _facts(path: Path) -> str:
    found = path.stat()
    changed = time.strftime("%Y%m%d%H%M%S", time.gmtime(found.st_mtime))
    return f"type={'dir' if path.is_dir() else 'file'};size={found.st_size};modify={changed}; {path.name}"


def _long(path: Path) -> str:
    found = path.stat()
    mode = "drwxr-xr-x" if path.is_dir() else "-rw-r--r--"
    changed = time.strftime("%b %d %H:%M", time.gmtime(found.st_mtime))
    return f"{mode}    1 ftp      ftp      {found.st_size:>12} {changed} {path.name}"
