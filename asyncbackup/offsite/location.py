"""One secondary location during a run: what is known to lie there, and whether it answers."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping

from asyncbackup.errors import TargetError
from asyncbackup.targets.target import Remote, Target

_NOT_AGAIN = 60.0
"""Seconds in which nobody else knocks at a location that refused: a fleet would wait for each in turn, and a
wrong password tried a hundred times locks accounts."""


class Location:
    """A target with what this run has learnt of it; safe for many tasks of one event loop."""

    def __init__(self, target: Target, clock: Callable[[], float] = time.monotonic) -> None:
        self.target = target
        self._clock = clock
        self._listing: dict[str, int] | None = None
        self._asking = asyncio.Lock()
        self._refused: tuple[float, TargetError] | None = None

    @property
    def label(self) -> str:
        """Where it is, without any secret."""
        return self.target.label

    @contextlib.asynccontextmanager
    async def connect(self, *, again: bool = False) -> AsyncIterator[Remote]:
        """Connect for the block; raises TargetError.

        Where it has just refused somebody, it is not asked, unless the same one tries `again`.
        """
        if self._refused is not None and not again:
            when, why = self._refused
            if self._clock() - when < _NOT_AGAIN:
                raise TargetError(why.message, hint=why.hint) from why
        async with contextlib.AsyncExitStack() as stack:
            try:
                remote = await stack.enter_async_context(self.target.connect())
            except TargetError as error:
                self._refused = self._clock(), error
                raise
            self._refused = None
            yield remote

    async def listing(self) -> Mapping[str, int]:
        """Return names and sizes of what lies there, asked for once and kept up to date, or raise."""
        async with self._asking:
            if self._listing is None:
                async with self.connect() as remote:
                    self._listing = dict(await remote.list())
            return self._listing

    def stored(self, name: str, size: int) -> None:
        """Note that a file lies there now, whatever a listing that lags behind will say."""
        if self._listing is not None:
            self._listing[name] = size

    def deleted(self, name: str) -> None:
        """Note that a file is gone."""
        if self._listing is not None:
            self._listing.pop(name, None)
