"""What a secondary location can do: the contract that every one of them keeps, and one suite tests.

A location is one flat folder: names without slashes, whole files. Retries, limits of bandwidth, events and
the order in which a backup and its manifest are stored are not its business: they wrap it from outside.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from asyncbackup.errors import TargetError

BLOCK = 256 * 1024
"""Bytes in a block, at most: that size costs least, and a slow line still passes one in good time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file to store."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    blocks: Callable[[int], AsyncIterator[bytes]]
    """Its content from an offset on; called once for each try. What stops it comes from reading the file."""


async def content(upload: Upload, offset: int = 0) -> AsyncGenerator[bytes, None]:
    """Yield the file's blocks from an offset on; raises TargetError where they are not as many as its size.

    Use it with `aclosing`, so that what it reads from is closed at once.
    """
    source, at = upload.blocks(offset), offset
    try:
        async for block in source:
            at += len(block)
            if at > upload.size:
                break
            yield block
    finally:
        close = getattr(source, "aclose", None)  # an iterator need not have it
        if close is not None:
            await close()
    if at != upload.size:
        raise TargetError(
            f"{upload.name} is not stored: it should have {upload.size} bytes, and"
            f" {'more' if at > upload.size else at} came",
            hint="the local file has changed since it was written: asyncbackup check tells more",
        )


class Remote(Protocol):
    """An open connection to a location.

    Every method raises TargetError, with what the other side said, and whether trying again may help; after
    that, or once cancelled, nothing more is asked of this connection. Each has limits of time of its own.
    """

    async def put(self, upload: Upload, part: str = "") -> None:
        """Store the file whole under its name, in one step that replaces what is there; or change nothing.

        It is written under a name of its own first (`part_name`). On return its length has been compared, and
        its hash where the location offers that. `part` is what an earlier try has left (`TargetError.part`):
        go on from there if that is possible, else begin anew. A failure that may pass may leave such a part
        and then names it; any other failure, and being cancelled, leaves none as far as the location answers.
        """
        ...

    def get(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a file for reading; TargetError with `missing` where there is none of that name.

        The iterator ends where the file ends, and raises where the connection does.
        """
        ...

    async def size(self, name: str) -> int | None:
        """Return a file's length; None where there is none of that name."""
        ...

    async def sha256(self, name: str) -> str | None:
        """Return a file's SHA-256 as the location itself has computed it, None where it offers no such thing.

        A digest that was only handed in with the upload, and is handed back, does not count.
        """
        ...

    async def list(self) -> Mapping[str, int]:
        """Return every file's name and length; a folder that is not there yet is empty. It may lag behind."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a file; that there is none of that name is no failure."""
        ...


class Target(Protocol):
    """A location as it is configured; `label` names it for people, without any secret in it."""

    @property
    def label(self) -> str:
        """Where it is, such as `ftp://backup.example/db/`."""
        ...

    def connect(self) -> AbstractAsyncContextManager[Remote]:
        """Connect and log in for the block; raises TargetError."""
        ...
