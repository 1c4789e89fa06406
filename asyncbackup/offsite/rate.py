"""How many bytes a second all uploads together may take."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

from asyncbackup.targets.target import BLOCK

_BURST = 1.0  # seconds' worth that may be sent at once after a pause
_LEAST = 4096  # bytes; smaller pieces would be all overhead


class Rate:
    """A limit of bandwidth that uploads share; 0 is none. `clock` and `sleep` are those of asyncio."""

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._per_second = per_second
        self._clock = clock
        self._sleep = sleep
        self._due = clock() - _BURST

    def pieces(self, block: bytes) -> Iterator[bytes]:
        """Cut a block so that no piece takes much longer than a second: servers end idle connections."""
        size = BLOCK if not self._per_second else max(_LEAST, min(BLOCK, int(self._per_second)))
        for at in range(0, len(block), size):
            yield block[at : at + size]

    async def take(self, count: int) -> None:
        """Wait until so many bytes may be sent."""
        if not self._per_second:
            return
        now = self._clock()
        self._due = max(self._due, now - _BURST) + count / self._per_second
        if self._due > now:
            await self._sleep(self._due - now)
