"""Places for dumps: so many in all, so many on each server; a pause and publishing take none of them."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from asyncbackup.model import Server

_AWAY = 16
"""Journeys that may be away from their places at a time: each keeps its lock, and so an open file."""


class Slots:
    """The places of a run."""

    def __init__(self, dumps: int, per_server: int, publishing: int) -> None:
        self.free = dumps
        self.per_server = per_server
        self.on_server: Counter[Server] = Counter()
        self.publishing = asyncio.Semaphore(publishing)
        self.away = 0
        self.queue: deque[tuple[Place, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def place(self, server: Server) -> AsyncIterator["Place"]:
        """Wait for a place, and hold it for the block, or until it is given up before."""
        async with contextlib.AsyncExitStack() as finishing:
            place = Place(slots=self, server=server, finishing=finishing)
            finishing.callback(place.leave)
            await place.take()
            yield place

    def admit(self) -> None:
        """Let in whoever is next and finds room."""
        for entry in tuple(self.queue):
            if not self.free:
                return
            place, turn = entry
            if not turn.done() and (place.on_server or self.on_server[place.server] < self.per_server):
                self.free -= 1
                self.on_server[place.server] += not place.on_server
                place.dumping = place.on_server = True
                self.queue.remove(entry)
                turn.set_result(None)


@dataclass(slots=True, eq=False, kw_only=True)
class Place:
    """The place of one journey."""

    slots: Slots
    server: Server
    finishing: contextlib.AsyncExitStack
    dumping: bool = field(default=False, init=False)
    on_server: bool = field(default=False, init=False)
    away: bool = field(default=False, init=False)

    async def take(self) -> None:
        """Wait for the place; who comes back from a pause goes first."""
        if self.dumping:
            return
        entry = self, asyncio.get_running_loop().create_future()
        first = sum(place.away for place, _ in self.slots.queue)
        self.slots.queue.insert(first if self.away else len(self.slots.queue), entry)
        self.slots.admit()
        try:
            await entry[1]
        finally:
            with contextlib.suppress(ValueError):  # cancelled: nobody has let us in
                self.slots.queue.remove(entry)
        self._back()

    def pause(self, *, on_server: bool) -> None:
        """Let others go first for a while; `on_server`: those of this server, too."""
        if self.dumping and self.slots.away < _AWAY:
            self.slots.away += 1
            self.away = True
            self._give(on_server=on_server)

    async def hand_over(self) -> None:
        """The server has done its part: let the next one begin while this one is published."""
        await self.finishing.enter_async_context(self.slots.publishing)
        self.leave()

    def leave(self) -> None:
        """Give back whatever is held of the place."""
        self._back()
        self._give(on_server=True)

    def _back(self) -> None:
        self.slots.away -= self.away
        self.away = False

    def _give(self, *, on_server: bool) -> None:
        self.slots.free += self.dumping
        self.dumping = False
        if on_server:
            self.slots.on_server[self.server] -= self.on_server
            self.on_server = False
        self.slots.admit()
