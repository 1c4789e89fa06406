"""What happens, told sideways: nothing ever comes back, and a broken sink never breaks a backup."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """How much an event matters; the numbers are those of the standard library's logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened: a constant dotted name, and everything else in fields."""

    name: str
    level: Level
    at: datetime
    fields: Mapping[str, Any]


Sink = Callable[[Event], None]


class Events:
    """Where events are told; `bind` adds fields to everything told through the copy."""

    def __init__(self, *sinks: Sink, fields: Mapping[str, Any] | None = None) -> None:
        self._sinks = sinks
        self._fields = dict(fields or {})
        self.lost = 0
        """Events that a sink failed to take."""

    def bind(self, **fields: Any) -> "Events":  # noqa: ANN401 - any JSON value
        """Return a copy that adds these fields to each event."""
        return Events(*self._sinks, fields={**self._fields, **fields})

    def emit(self, name: str, level: Level = Level.INFO, **fields: Any) -> None:  # noqa: ANN401
        """Tell an event; never raises."""
        event = Event(name=name, level=level, at=datetime.now(UTC), fields={**self._fields, **fields})
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:  # noqa: BLE001 - a log pipe that is gone must not end a backup
                self.lost += 1

    def debug(self, name: str, **fields: Any) -> None:  # noqa: ANN401
        """Tell what only a developer asks for."""
        self.emit(name, Level.DEBUG, **fields)

    def warning(self, name: str, **fields: Any) -> None:  # noqa: ANN401
        """Tell what someone should look at."""
        self.emit(name, Level.WARNING, **fields)

    def error(self, name: str, **fields: Any) -> None:  # noqa: ANN401
        """Tell what has failed."""
        self.emit(name, Level.ERROR, **fields)

    @contextlib.contextmanager
    def timed(self, name: str, level: Level = Level.DEBUG, **fields: Any) -> Iterator[None]:  # noqa: ANN401
        """Tell how many seconds the block took, once it has ended well."""
        started = time.monotonic()
        yield
        self.emit(name, level, seconds=round(time.monotonic() - started, 3), **fields)
