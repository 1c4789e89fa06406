"""From a thread to the event loop, item by item; the thread waits when too much is on its way."""

import asyncio
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class HandoverClosedError(Exception):
    """Nobody takes anything any more; the thread is to end."""


class Handover(Generic[T]):
    """A queue with room for so many bytes; one larger item may pass when nothing else is in it."""

    def __init__(self, room: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = room
        self._used = 0
        self._closed = False
        self._condition = threading.Condition()
        self._items: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    def put(self, item: T, size: int) -> None:
        """Hand over an item of so many bytes, from the thread; waits for room.

        Raises HandoverClosedError.
        """
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or not self._used or self._used + size <= self._room
            )
            if self._closed:
                raise HandoverClosedError
            self._used += size
        self._loop.call_soon_threadsafe(self._arrive, item)

    def end(self) -> None:
        """Take note, from the thread, that nothing more comes."""
        self._loop.call_soon_threadsafe(self._end)

    def _arrive(self, item: T) -> None:
        self._items.append(item)
        self._arrived.set()

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()

    async def get(self) -> T | None:
        """Return the next item, which takes up room until `release`; None after the last."""
        while not self._items:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()

    def release(self, size: int) -> None:
        """Make room for the next ones."""
        with self._condition:
            self._used -= size
            self._condition.notify()

    def close(self) -> None:
        """Let the thread end at its next item."""
        with self._condition:
            self._closed = True
            self._condition.notify()
