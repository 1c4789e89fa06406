"""Secondary locations for tests: one in memory, and wrappers that lie and fail as real locations do.

A wrapper goes around any target. `times` is how often it misbehaves before it is honest; by default, always.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from asyncbackup import naming
from asyncbackup.errors import TargetError
from asyncbackup.targets.target import BLOCK, Remote, Target, Upload, content

ALWAYS = 1_000_000


def upload(name: str, data: bytes, *, size: int | None = None, block: int = BLOCK) -> Upload:
    """Return an upload of these bytes."""

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(data), block):
            yield data[at : at + block]

    return Upload(
        name=name,
        size=len(data) if size is None else size,
        sha256=hashlib.sha256(data).hexdigest(),
        blocks=blocks,
    )


async def store(target: Target, name: str, data: bytes) -> None:
    """Store these bytes over a connection of their own."""
    async with target.connect() as remote:
        await remote.put(upload(name, data))


async def fetch(target: Target, name: str) -> bytes:
    """Return a file's content, over a connection of its own."""
    async with target.connect() as remote, remote.get(name) as blocks:
        return b"".join([block async for block in blocks])


@dataclass
class Memory:
    """A location in memory, which keeps the contract to the letter; what it holds can be looked at and changed."""

    files: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    """What unfinished uploads have brought so far; listed with the files, as elsewhere."""
    hashes: bool = False
    """Whether it computes SHA-256 itself."""
    resumes: bool = False
    """Whether what broke may be gone on with."""
    label: str = "memory://test/"
    connections: int = 0
    """How often it was connected to."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Remote]:
        self.connections += 1
        yield _InMemory(self)


class _InMemory:
    def __init__(self, place: Memory) -> None:
        self._place = place

    async def put(self, upload: Upload, part: str = "") -> None:
        parts = self._place.parts
        if part not in parts or not self._place.resumes:
            parts.pop(part, None)
            part = naming.part_name(upload.name)
            parts[part] = b""
        try:
            async with aclosing(content(upload, len(parts[part]))) as blocks:
                async for block in blocks:
                    parts[part] += block
                    await asyncio.sleep(0)
        except BaseException:
            del parts[part]
            raise
        self._place.files[upload.name] = parts.pop(part)

    @asynccontextmanager
    async def get(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        data = self._place.files.get(name, self._place.parts.get(name))
        if data is None:
            raise TargetError(f"{self._place.label}{name}: there is no such file", missing=True)
        yield upload(name, data).blocks(0)

    async def size(self, name: str) -> int | None:
        return (await self.list()).get(name)

    async def sha256(self, name: str) -> str | None:
        data = self._place.files.get(name)
        return hashlib.sha256(data).hexdigest() if data is not None and self._place.hashes else None

    async def list(self) -> Mapping[str, int]:
        return {name: len(data) for name, data in (self._place.files | self._place.parts).items()}

    async def delete(self, name: str) -> None:
        self._place.files.pop(name, None)
        self._place.parts.pop(name, None)


@dataclass
class Honest:
    """A target that does what the one within it does; liars are made of it."""

    inner: Target
    times: int = ALWAYS
    """How often it still misbehaves."""

    @property
    def label(self) -> str:
        return self.inner.label

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Remote]:
        async with self.inner.connect() as remote:
            yield self.around(remote)

    def around(self, remote: Remote) -> Remote:
        return remote

    def misbehaves(self) -> bool:
        """Count this time, and say whether it is one to misbehave at."""
        self.times -= 1
        return self.times >= 0

    def broken(self, what: str, part: str = "") -> TargetError:
        return TargetError(f"{self.label}: {what}", hint="this is a test", retryable=True, part=part)


class _Through:
    """A connection that passes everything on."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def put(self, upload: Upload, part: str = "") -> None:
        await self._remote.put(upload, part)

    def get(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._remote.get(name)

    async def size(self, name: str) -> int | None:
        return await self._remote.size(name)

    async def sha256(self, name: str) -> str | None:
        return await self._remote.sha256(name)

    async def list(self) -> Mapping[str, int]:
        return await self._remote.list()

    async def delete(self, name: str) -> None:
        await self._remote.delete(name)


@asynccontextmanager
async def _closing(blocks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close the blocks with the block, so that the file that they come from is closed, too."""
    try:
        yield blocks
    finally:
        close = getattr(blocks, "aclose", None)
        if close is not None:
            await close()


class Short(Honest):
    """Stores less than it was given, and says that all is well."""

    def around(self, remote: Remote) -> Remote:
        liar = self

        class Lying(_Through):
            async def put(self, upload: Upload, part: str = "") -> None:
                if not liar.misbehaves() or not upload.size:
                    return await super().put(upload, part)

                async def blocks(offset: int) -> AsyncIterator[bytes]:
                    left = upload.size - 1 - offset
                    async with _closing(upload.blocks(offset)) as source:
                        async for block in source:
                            yield block[:left]
                            left -= len(block[:left])

                await super().put(replace(upload, size=upload.size - 1, blocks=blocks), part)
                return None

        return Lying(remote)


class Complaining(Honest):
    """Does what it is told, and says that it has failed: the answer got lost."""

    def around(self, remote: Remote) -> Remote:
        liar = self

        class Lying(_Through):
            async def put(self, upload: Upload, part: str = "") -> None:
                await super().put(upload, part)
                if liar.misbehaves():
                    raise liar.broken(f"lost the connection after {upload.name}")

            async def delete(self, name: str) -> None:
                await super().delete(name)
                if liar.misbehaves():
                    raise liar.broken(f"lost the connection after {name}")

        return Lying(remote)


class Idle(Honest):
    """Does nothing, and says that all is well."""

    def around(self, remote: Remote) -> Remote:
        liar = self

        class Lying(_Through):
            async def put(self, upload: Upload, part: str = "") -> None:
                if not liar.misbehaves():
                    return await super().put(upload, part)
                async with aclosing(content(upload)) as blocks:
                    async for _ in blocks:
                        pass
                return None

            async def delete(self, name: str) -> None:
                if not liar.misbehaves():
                    await super().delete(name)

        return Lying(remote)


@dataclass
class Late(Honest):
    """Lists what was there at the first time that it was asked, until `catch_up`."""

    _first: Mapping[str, int] | None = None

    def catch_up(self) -> None:
        self._first = None

    def around(self, remote: Remote) -> Remote:
        liar = self

        class Lying(_Through):
            async def list(self) -> Mapping[str, int]:
                if not liar.misbehaves():
                    return await super().list()
                if liar._first is None:
                    liar._first = dict(await super().list())
                return liar._first

        return Lying(remote)


@dataclass
class Breaking(Honest):
    """Loses the connection after so many bytes of a file, either way; what a `Memory` that resumes has, stays."""

    after: int = 0

    def around(self, remote: Remote) -> Remote:
        liar = self

        async def cut(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            left = liar.after
            async with _closing(blocks) as source:
                async for block in source:
                    if len(block) > left:
                        yield block[:left]
                        raise _CutError
                    left -= len(block)
                    yield block
                raise _CutError

        class Lying(_Through):
            async def put(self, upload: Upload, part: str = "") -> None:
                if not liar.misbehaves():
                    return await super().put(upload, part)
                try:
                    await super().put(replace(upload, blocks=lambda at: cut(upload.blocks(at))), part)
                except _CutError:
                    raise liar.broken(
                        f"lost the connection in {upload.name}",
                        part=await _left(liar.inner, upload, liar.after),
                    ) from None
                return None

            @asynccontextmanager
            async def get(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
                async with super().get(name) as blocks:
                    if not liar.misbehaves():
                        yield blocks
                        return
                    try:
                        yield cut(blocks)
                    except _CutError:
                        raise liar.broken(f"lost the connection in {name}") from None

        return Lying(remote)


class _CutError(Exception):
    """The connection breaks here."""


async def _left(target: Target, upload: Upload, after: int) -> str:
    """Leave what came in a part, where the target can go on from it."""
    if not isinstance(target, Memory) or not target.resumes:
        return ""
    data = b"".join([block async for block in upload.blocks(0)])
    part = naming.part_name(upload.name)
    target.parts[part] = data[:after]
    return part


@dataclass
class Gone(Honest):
    """Answers so many requests, and then nobody any more until it is back; `times` counts refusals."""

    answers: int = 0

    def back(self) -> None:
        self.times = 0

    def answer(self) -> None:
        self.answers -= 1
        if self.answers < 0 and self.misbehaves():
            raise self.broken("nobody answers")

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Remote]:
        self.answer()
        async with self.inner.connect() as remote:
            yield self.around(remote)

    def around(self, remote: Remote) -> Remote:
        liar = self

        class Lying(_Through):
            async def put(self, upload: Upload, part: str = "") -> None:
                liar.answer()
                await super().put(upload, part)

            @asynccontextmanager
            async def get(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
                liar.answer()
                async with super().get(name) as blocks:
                    yield blocks

            async def size(self, name: str) -> int | None:
                liar.answer()
                return await super().size(name)

            async def sha256(self, name: str) -> str | None:
                liar.answer()
                return await super().sha256(name)

            async def list(self) -> Mapping[str, int]:
                liar.answer()
                return await super().list()

            async def delete(self, name: str) -> None:
                liar.answer()
                await super().delete(name)

        return Lying(remote)


@dataclass
class Held(Honest):
    """Holds every upload in its middle until `release` is set; `reached` says that one has come there."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def around(self, remote: Remote) -> Remote:
        liar = self

        async def held(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async with _closing(blocks) as source:
                async for block in source:
                    yield block
                    liar.reached.set()
                    await liar.release.wait()

        class Lying(_Through):
            async def put(self, upload: Upload, part: str = "") -> None:
                await super().put(replace(upload, blocks=lambda at: held(upload.blocks(at))), part)

        return Lying(remote)


LIARS: Mapping[str, Callable[[Target], Honest]] = {
    "short": Short,
    "complaining": Complaining,
    "idle": Idle,
    "late": Late,
    "breaking": Breaking,
    "gone": Gone,
}
