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
_IN_A_ROW = 4
"""Tries to store that may fail one after the other, not all of one file, until nobody else tries either."""


class _Trouble:
    """What went wrong just now, and stands for the next ones."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: tuple[float, TargetError] | None = None

    def note(self, error: TargetError) -> None:
        self._last = self._clock(), error

    def over(self) -> None:
        self._last = None

    def raise_it(self) -> None:
        """Raise TargetError where it is no use to try again yet."""
        if self._last is not None:
            when, why = self._last
            if self._clock() - when < _NOT_AGAIN:
                raise TargetError(why.message, hint=why.hint) from why


class Location:
    """A target with what this run has learnt of it; safe for many tasks of one event loop."""

    def __init__(self, target: Target, clock: Callable[[], float] = time.monotonic) -> None:
        self.target = target
        self._listing: dict[str, int] | None = None
        self._changed: dict[str, int | None] = {}
        self._asking = asyncio.Lock()
        self._refuses, self._lists_not, self._stores_not = (_Trouble(clock) for _ in range(3))
        self._failed: list[str] = []

    @property
    def label(self) -> str:
        """Where it is, without any secret."""
        return self.target.label

    @contextlib.asynccontextmanager
    async def connect(self, *, again: bool = False) -> AsyncIterator[Remote]:
        """Connect for the block; raises TargetError.

        Where it has just refused somebody, it is not asked, unless the same one tries `again`.
        """
        if not again:
            self._refuses.raise_it()
        async with contextlib.AsyncExitStack() as stack:
            try:
                remote = await stack.enter_async_context(self.target.connect())
            except TargetError as error:
                self._refuses.note(error)
                raise
            self._refuses.over()
            yield remote

    @contextlib.asynccontextmanager
    async def storing(self, name: str, *, again: bool = False) -> AsyncIterator[Remote]:
        """Connect to store a file; not where storing has just failed again and again, as in `connect`."""
        if not again:
            self._stores_not.raise_it()
        try:
            async with self.connect(again=again) as remote:
                yield remote
        except TargetError as error:
            if error.retryable:
                self._failed.append(name)
                if len(self._failed) >= _IN_A_ROW and len(set(self._failed)) > 1:
                    self._stores_not.note(error)
            raise

    async def listing(self) -> Mapping[str, int]:
        """Return names and sizes of what lies there, asked for once and kept up to date, or raise."""
        async with self._asking:
            if self._listing is None:
                self._lists_not.raise_it()
                async with self.connect() as remote:
                    try:
                        self._listing = dict(await remote.list())
                    except TargetError as error:
                        self._lists_not.note(error)
                        raise
                for name, size in self._changed.items():
                    self._note(name, size)
            return self._listing

    def stored(self, name: str, size: int) -> None:
        """Note that a file lies there now, whatever a listing that lags behind says or will say."""
        self._failed.clear()
        self._stores_not.over()
        self._note(name, size)

    def deleted(self, name: str) -> None:
        """Note that a file is gone."""
        self._note(name, None)

    def _note(self, name: str, size: int | None) -> None:
        self._changed[name] = size
        if self._listing is None:
            return
        if size is None:
            self._listing.pop(name, None)
        else:
            self._listing[name] = size
