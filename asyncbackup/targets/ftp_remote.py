"""A folder at an FTP server while it is connected to: what the contract of secondary locations says."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress

import aioftp

from asyncbackup import threads
from asyncbackup.errors import TargetError
from asyncbackup.naming import part_name
from asyncbackup.targets import ftp_listing
from asyncbackup.targets.ftp import FINAL_REPLY, DataStream, Ftp
from asyncbackup.targets.ftp_control import ReplyError, within
from asyncbackup.targets.ftp_failures import Step, code_of, failing
from asyncbackup.targets.target import BLOCK, Upload, content

_WORTH_KEEPING = 8 * 1024 * 1024  # bytes; less than that is sent anew sooner than it is asked for
_LOCKED = 15.0  # seconds; vsftpd does not answer while a dead session still holds the file
_DISCARDED = 5.0  # seconds to delete what is of no use, over a connection of its own
_QUIT = 2.0  # seconds for a last word
_HASHED = 20_000_000  # bytes a second that a server hashes at least
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.IGNORECASE)


class _ChangedError(TargetError):
    """What has arrived is not what was sent: worth another try, but not what is there."""


class FtpRemote:
    """The location while it is connected to.

    An error leaves a connection out of step with its server, so that it is dropped; the next call, if there
    is one, connects anew.
    """

    def __init__(self, label: str, path: str, log_in: Callable[[], Awaitable[Ftp]]) -> None:
        """Take the folder, relative to where a login leads or absolute, and what connects and logs in."""
        self._label = label
        self._path = path
        self._log_in = log_in
        self._ftp: Ftp | None = None
        self._inside = False
        self._features: Mapping[str, str] | None = None
        self._arrived = 0

    async def put(self, upload: Upload, part: str = "") -> None:
        """Store the file under a name of its own, compare it, rename it; see the contract."""
        self._arrived = _WORTH_KEEPING if part else 0
        try:
            await self.enter(make=True)
            stream = await self._resume(part, upload) if part else None
            if stream is None:
                part, self._arrived = part_name(upload.name), 0
                with self._failing(f"storing {upload.name}", "store"):
                    stream = await self._open.get_stream(f"STOR {part}", "1xx")
            await self._send(stream, upload)
            await self._compare(part, upload)
            await self._rename(part, upload.name)
        except BaseException as error:
            self.drop()
            worth = self._arrived >= _WORTH_KEEPING and not isinstance(error, _ChangedError)
            if worth and isinstance(error, TargetError) and error.retryable:
                error.part = part
            elif part:
                await self._discard(part, error)
            raise

    @asynccontextmanager
    async def get(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a file for reading."""
        size = await self.size(name)
        if size is None:
            raise TargetError(f"{self._label}: {name}: there is no such file", missing=True)
        with self._failing(f"reading {name}"):
            stream = await self._open.get_stream(f"RETR {name}", "1xx")
        try:
            async with aclosing(self._read(stream, name, size)) as blocks:
                yield blocks
        finally:
            if not stream.finished:  # it broke, or was left before its end
                stream.abort()
                self.drop()

    async def size(self, name: str) -> int | None:
        """Return a file's length, None where there is none of that name."""
        if not await self.enter():
            return None
        with self._failing(f"asking for the length of {name}"):
            return await self._size(name)

    async def sha256(self, name: str) -> str | None:
        """Return a file's SHA-256 as the server computes it, None where it does not."""
        size = await self.size(name)
        if size is None:
            return None
        with self._failing(f"asking for the SHA-256 of {name}"):
            return await self._digest(name, size)

    async def list(self) -> Mapping[str, int]:
        """Return every file's name and length."""
        if not await self.enter():
            return {}
        with self._failing("listing the folder"):
            return await self._list()

    async def delete(self, name: str) -> None:
        """Delete a file, if there is one of that name."""
        if not await self.enter():
            return
        with self._failing(f"deleting {name}"):
            try:
                await self._open.ask(f"DELE {name}", "2xx")
            except aioftp.StatusCodeError as refusal:
                if not code_of(refusal).startswith("55") or await self._size(name) is not None:
                    raise

    async def quit(self) -> None:
        """Take leave of the server, if it is still there."""
        if self._ftp is not None:
            with suppress(OSError, aioftp.AIOFTPException, ReplyError):
                await self._ftp.ask("QUIT", "2xx", limit=_QUIT)

    def drop(self) -> None:
        """End the connection at once."""
        if self._ftp is not None:
            self._ftp.abort_connection()
        self._ftp, self._inside, self._features = None, False, None

    @property
    def _open(self) -> Ftp:
        if self._ftp is None:
            raise ConnectionError("the connection has ended")
        return self._ftp

    @contextmanager
    def _failing(self, doing: str, step: Step = "other") -> Iterator[None]:
        try:
            with failing(self._label, doing, step):
                yield
        except BaseException:
            self.drop()
            raise

    async def enter(self, *, make: bool = False) -> bool:
        """Be connected and inside the folder; return False where there is none, and it is not to be made."""
        if self._ftp is None:
            self._ftp = await self._log_in()
        if self._inside:
            return True
        with self._failing("entering the folder", "folder"):
            self._inside = await self._enter_at_once() or (make and await self._enter_step_by_step())
        return self._inside

    async def _enter_at_once(self) -> bool:
        path = self._path
        return not path or (await self._open.ask(f"CWD {path}", ("2xx", "55x")))[0].startswith("2")

    async def _enter_step_by_step(self) -> bool:
        """Make what is missing of the folder; to its parents we may have no right but to pass."""
        path = self._path
        if path.startswith("/"):
            await self._open.ask("CWD /", "2xx")
        for name in filter(None, path.split("/")):
            code, _ = await self._open.ask(f"CWD {name}", ("2xx", "55x"))
            if code.startswith("2"):
                continue
            try:
                await self._open.ask(f"MKD {name}", "2xx")
            except aioftp.StatusCodeError as refusal:  # or another has made it in the meantime
                code, _ = await self._open.ask(f"CWD {name}", ("2xx", "55x"))
                if not code.startswith("2"):
                    raise refusal from None
            else:
                await self._open.ask(f"CWD {name}", "2xx")
        return True

    async def _resume(self, part: str, upload: Upload) -> DataStream | None:
        """Go on with what an earlier try has left; None where that is not to be, and it was deleted."""
        with self._failing(f"going on with {part}", "store"):
            try:
                size = await self._size(part)
                if size is not None and 0 < size <= upload.size:
                    self._arrived = size
                    async with within(min(_LOCKED, self._open.transfer_timeout), "no reply"):
                        return await self._open.get_stream(f"STOR {part}", "1xx", offset=size)
            except aioftp.StatusCodeError as refusal:
                if not re.fullmatch(r"451|5..", code_of(refusal)):
                    raise
            except TimeoutError:
                pass
        self.drop()
        await self._discard(part)
        await self.enter(make=True)
        return None

    async def _send(self, stream: DataStream, upload: Upload) -> None:
        doing = f"storing {upload.name}"
        try:
            async with aclosing(content(upload, self._arrived)) as blocks:
                async for block in blocks:  # what this raises is about the file here
                    with self._failing(doing, "store"):
                        await stream.write(block)
                    self._arrived += len(block)
            with self._failing(doing, "store"):
                await stream.finish()
        finally:
            stream.abort()

    async def _compare(self, part: str, upload: Upload) -> None:
        """Compare length and, where the server computes it, hash of what has arrived."""
        with self._failing(f"comparing {upload.name}"):
            size = await self._size(part)
            digest = await self._digest(part, size) if size == upload.size else None
        if size != upload.size:
            arrived = "nothing" if size is None else f"{size} bytes"
            raise self._changed(upload, f"{upload.size} bytes were sent, the server has {arrived}")
        if digest not in {None, upload.sha256}:
            raise self._changed(upload, "its SHA-256 is another one at the server")

    def _changed(self, upload: Upload, why: str) -> TargetError:
        return _ChangedError(f"{self._label}: storing {upload.name}: {why}", retryable=True)

    async def _rename(self, part: str, name: str) -> None:
        with self._failing(f"renaming {part} to {name}", "rename"):
            try:
                await self._open.move(part, name)
            except aioftp.StatusCodeError as refusal:
                if not code_of(refusal).startswith("5") or await self._size(name) is None:
                    raise
            else:
                return
            # The server does not replace a file by renaming: what is there steps aside, and can come back.
            aside = part_name(name)
            await self._open.move(name, aside)
            try:
                await self._open.move(part, name)
            except aioftp.StatusCodeError:
                await self._open.move(aside, name)
                raise
            await self._open.ask(f"DELE {aside}", ("2xx", "5xx"))  # else it is swept as any other part

    async def _discard(self, part: str, because: BaseException | None = None) -> None:
        """Delete what is of no use, over a connection of its own, whatever has become of ours."""
        try:
            await threads.see_through(asyncio.ensure_future(self._delete_part(part)))
        except TargetError as error:
            if because is not None:
                because.add_note(f"{part} may be left there: {error.message}")

    async def _delete_part(self, part: str) -> None:
        with failing(self._label, f"deleting {part}"):
            async with within(_DISCARDED, "no end"):
                ftp = await self._log_in()
                try:
                    path = self._path
                    if path:
                        await ftp.ask(f"CWD {path}", "2xx")
                    try:
                        await ftp.ask(f"DELE {part}", "2xx")
                    except aioftp.StatusCodeError:
                        if (await ftp.ask(f"SIZE {part}", ("213", "5xx")))[0] == "213":
                            raise  # it is there, and the server will not delete it
                finally:
                    ftp.abort_connection()

    async def _size(self, name: str) -> int | None:
        code, lines = await self._open.ask(f"SIZE {name}", ("213", "50x", "55x"))
        if code.startswith("50"):  # there is no such command
            return (await self._list()).get(name)
        if code.startswith("55"):
            return None
        if not re.fullmatch(r"\d{1,18}", lines[-1], re.ASCII):
            raise ReplyError("the server's reply to SIZE is no number")
        return int(lines[-1])

    async def _digest(self, name: str, size: int) -> str | None:
        features = await self._offered()
        limit = FINAL_REPLY + size / _HASHED
        try:
            if "XSHA256" in features:
                _, lines = await self._open.ask(f"XSHA256 {name}", "2xx", limit=limit)
            elif "SHA-256" in features.get("HASH", "").upper():
                await self._open.ask("OPTS HASH SHA-256", "2xx")
                _, lines = await self._open.ask(f"HASH {name}", "213", limit=limit)
            else:
                return None
        except aioftp.StatusCodeError as refusal:
            if code_of(refusal) == "421":
                raise
            return None  # such as for a file that is longer than the server will hash
        found = _DIGEST.search(" ".join(lines).replace(name, ""))
        return found[0].lower() if found else None

    async def _offered(self) -> Mapping[str, str]:
        """Return what the server says that it can do beyond the old standard."""
        if self._features is None:
            code, lines = await self._open.ask("FEAT", ("2xx", "5xx"))
            words = (line.upper().partition(" ") for line in lines[1:-1] if code.startswith("2"))
            self._features = {name: rest for name, _, rest in words}
        return self._features

    async def _list(self) -> Mapping[str, int]:
        plain = {"MLST", "MLSD"}.isdisjoint(await self._offered())
        try:
            stream = await self._open.get_stream("LIST" if plain else "MLSD", "1xx")
        except aioftp.StatusCodeError as refusal:
            if re.fullmatch(r"[45]50", code_of(refusal)) and "no files" in str(refusal.info).lower():
                return {}
            raise
        try:
            async with within(FINAL_REPLY, "no end of the listing"):
                found = await ftp_listing.read(stream.iter_by_block(BLOCK), plain=plain)
            await stream.finish()
        finally:
            stream.abort()
        return found

    async def _read(self, stream: DataStream, name: str, size: int) -> AsyncGenerator[bytes, None]:
        doing = f"reading {name}"
        arrived = 0
        while True:
            with self._failing(doing):
                block = await stream.read(BLOCK)
            if not block:
                break
            arrived += len(block)
            if arrived > size:
                raise TargetError(f"{self._label}: {doing}: it does not end after its {size} bytes")
            yield block
        with self._failing(doing):
            await stream.finish()
        if arrived < size:
            raise TargetError(
                f"{self._label}: {doing}: {arrived} bytes of {size} have arrived", retryable=True
            )
