"""How long a test restore may take, and how large it may become; whatever it is told to do, it ends.

The limits act from outside: every dump begins by lifting those of the server, and one that nobody vouches
for would lift any.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from asyncbackup.errors import LimitError

BASE_SECONDS = 600.0
BASE_BYTES = 1 << 30
_BYTES_PER_SECOND = 1e6
_LOOK = 0.5  # seconds between two looks at how large a database has grown


class OvertimeError(LimitError):
    """It took too long, for which there may be other reasons than the dump."""


@contextlib.asynccontextmanager
async def within(
    usage: Callable[[], Awaitable[int]],
    *,
    subject: str,
    stage: Callable[[], str],
    sql_bytes: int,
    wanted: float,
    size_factor: int,
) -> AsyncIterator[None]:
    """End the block when it takes longer, or grows larger, than a dump of `sql_bytes` should.

    `wanted` are the seconds that somebody has set, 0 goes by the size of the dump. `usage` returns the bytes
    on disk, and what it raises ends the block, too. Raises LimitError, which says by `stage` what the block
    was at.
    """
    seconds = wanted or BASE_SECONDS + sql_bytes / _BYTES_PER_SECOND
    most = BASE_BYTES + size_factor * sql_bytes
    grown = 0
    blind: Exception | None = None

    async def watch(limit: asyncio.Timeout) -> None:
        nonlocal grown, blind
        try:
            while grown <= most:
                await asyncio.sleep(_LOOK)
                grown = await usage()
        except Exception as error:  # noqa: BLE001 - whatever it is: nothing may go on unwatched
            blind = error
        limit.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(seconds) as limit:
            watcher = asyncio.create_task(watch(limit))
            try:
                yield
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
    except TimeoutError as error:
        if not limit.expired():
            raise
        if blind is not None:
            raise blind from error
        if grown > most:
            raise LimitError(
                f"{subject}: its restore grew to {grown} bytes, and was ended",
                hint="raise VERIFY_SIZE_FACTOR, or find out what in the dump makes so much of it",
            ) from error
        raise OvertimeError(
            f"{subject}: its restore was ended after {seconds:.0f} s, while {stage()}",
            hint="raise VERIFY_TIMEOUT, or find out what in the dump runs for so long",
        ) from error
