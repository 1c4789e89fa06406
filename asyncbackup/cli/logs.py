"""Events as log lines on stderr, JSON or for people; what no line may hold, and where none is read."""

import base64
import json
import os
import select
import stat
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from asyncbackup.events import Event, Level
from asyncbackup.model import Outcome, Report

if TYPE_CHECKING:
    from structlog.typing import Processor

_LEAST_SECRET = 4  # shorter ones would black out half of every line, and protect nothing
_MASK = "***"


_OURS = frozenset({"timestamp", "level", "event", "run_id"})  # whoever sets a password has no say in them
_TEXTS = ("error", "hint", "message", "warnings")  # fields that repeat what others said
_MOST_LINES = 10_000  # that wait for whoever reads stderr
_PATIENCE = 2.0  # seconds for those that wait at the end


def masker(secrets: Iterable[str]) -> Callable[[Any], Any]:
    """Return a function that masks these values in a text, or in all that a JSON value holds."""
    forms: set[str] = set()
    for secret in secrets:
        if len(secret) >= _LEAST_SECRET:
            encoded = secret.encode("utf-8", "surrogateescape")
            forms |= {secret, quote(encoded, safe=""), quote(encoded), json.dumps(secret)[1:-1]}
            forms.add(base64.b64encode(encoded).decode("ascii"))
    longest_first = sorted(forms, key=len, reverse=True)

    def mask(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, str):
            for form in longest_first:
                value = value.replace(form, _MASK)
            return value
        if isinstance(value, Mapping):
            return {key: mask(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [mask(item) for item in value]
        return value

    return mask


def redactor(secrets: Iterable[str]) -> "Processor":
    """Return a processor that masks these values, also when quoted or encoded, but not in our own words."""
    mask = masker(secrets)

    def process(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
        for key, value in event.items():
            if key not in _OURS:
                event[key] = mask(value)
        return event

    return process


class Writer:
    """Writes lines from a thread of its own, in order; when too many wait, new ones are dropped.

    So nobody who calls it ever waits for a reader. `last` makes the line that tells how many were.
    """

    def __init__(self, stream: TextIO, last: Callable[[int], str] | None = None) -> None:
        self._write = _direct(stream)
        self._last = last
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._over = False
        self._dropped = 0

    def put(self, line: str) -> None:
        """Take a line, or drop it."""
        with self._changed:
            if self._over or len(self._lines) >= _MOST_LINES:
                self._dropped += 1
                return
            self._lines.append(line)
            if self._thread is None:
                # A daemon, for it may hang in its write for ever.
                self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, patience: float = _PATIENCE) -> bool:
        """Wait until all is written, but not for long; return whether it is."""
        with self._changed:
            self._over = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _drain(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._over:
                    self._changed.wait()
                if not self._lines:
                    break
                line = self._lines.popleft()
            self._attempt(line)
        if self._dropped and self._last is not None:
            self._attempt(self._last(self._dropped))

    def _attempt(self, line: str) -> None:
        try:
            self._write(f"{line}\n")
        except Exception:  # noqa: BLE001 - a full disk or a reader that is gone concerns no backup
            self._dropped += 1


def _direct(stream: TextIO) -> Callable[[str], object]:
    """Return what writes to a stream, past its buffer.

    A thread that hung while it held the buffer's lock would crash the interpreter at its end.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return stream.write

    def write(text: str) -> None:
        data = memoryview(text.encode(stream.encoding, "backslashreplace"))
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # somebody else made it so
                select.select([], [descriptor], [])

    return write


_FIRST = ("timestamp", "level", "event")


def _ordered(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
    """Begin with when, how grave and what, where the eye looks for them."""
    return {**{key: event[key] for key in _FIRST}, **event}


def _harmless(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
    """Let no name command the terminal; JSON escapes by itself."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key != "traceback":
            event[key] = repr(value)[1:-1]
    return event


def _failure(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
    """Turn an exception into text; only our own bugs carry one."""
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        event["traceback"] = "".join(traceback.format_exception(error))
    return event


class Log:
    """A sink that writes events of at least this level; `log_format` is json or console."""

    def __init__(
        self, log_format: str, level: Level, secrets: Iterable[str], stream: TextIO | None = None
    ) -> None:
        import structlog  # noqa: PLC0415 - a fifth of the start of a command that logs nothing

        stream = stream or sys.stderr
        self._level = level
        self._processors: list[Processor] = [_failure, redactor(secrets)]
        if log_format == "json":
            self._processors += [
                _ordered,
                structlog.processors.JSONRenderer(serializer=json.dumps, ensure_ascii=True, default=str),
            ]
        else:
            self._processors += [
                _harmless,
                structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False, pad_event_to=20),
            ]
        self._writer = Writer(stream, self._dropped)

    def __call__(self, event: Event) -> None:
        """Write an event, soon."""
        if event.level >= self._level:
            self._writer.put(self._line(event))

    def close(self) -> bool:
        """Wait until all is written, but not for long; return whether it is."""
        return self._writer.close()

    def _line(self, event: Event) -> str:
        line: Any = {
            **event.fields,
            "timestamp": event.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": event.level.name.lower(),
            "event": event.name,
        }
        for processor in self._processors:
            line = processor(None, event.level.name.lower(), line)
        return str(line)

    def _dropped(self, count: int) -> str:
        fields = {"count": count}
        return self._line(Event(name="log.dropped", level=Level.WARNING, at=datetime.now(UTC), fields=fields))


unread: set[tuple[int, int]] = set()
"""Files that nobody has read from for so long that nothing more is written to them."""


def close(log: Log | Writer, stream: TextIO) -> None:
    """Wait until all is written, but not for long; remember where nobody reads."""
    if not log.close():
        unread.add(identity(stream))


def identity(stream: TextIO) -> tuple[int, int]:
    """Return which file a stream leads to."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return (-1, id(stream))
    return found.st_dev, found.st_ino


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees the stream; one that was closed from the start, nobody does."""
    return stream is not None and stream.isatty()


def open_streams() -> None:
    """Put the null device where this process was started without stdin, stdout or stderr.

    Else a backup that is being written would be taken for one of them, and whatever is said to it.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:  # noqa: PLR2004 - stderr
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - the system's own
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for good
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for good


def one_pipe() -> bool:
    """Whether stdout and stderr are one pipe (`2>&1 | reader`)."""
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and identity(sys.stdout) == identity(sys.stderr)


def masked_event(event: Event, mask: Callable[[Any], Any]) -> Event:
    """Return an event whose sentences hold no secrets."""
    return replace(event, fields={k: mask(v) if k in _TEXTS else v for k, v in event.fields.items()})


def masked_report(report: Report, mask: Callable[[Any], Any]) -> Report:
    """Return a report whose sentences hold no secrets; names and paths are what they are."""

    def masked(one: Outcome) -> Outcome:
        warnings = tuple(map(mask, one.warnings))
        copies = tuple(replace(c, error=mask(c.error), hint=mask(c.hint)) for c in one.copies)
        return replace(one, error=mask(one.error), hint=mask(one.hint), warnings=warnings, copies=copies)

    return replace(
        report,
        outcomes=tuple(map(masked, report.outcomes)),
        globals=tuple(map(masked, report.globals)),
        warnings=tuple(map(mask, report.warnings)),
    )
