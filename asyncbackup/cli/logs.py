"""Events as log lines on stderr: JSON, one object a line, or for people."""

import base64
import json
import sys
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from asyncbackup.events import Event, Level, Sink

if TYPE_CHECKING:
    from structlog.typing import Processor

_LEAST_SECRET = 4  # shorter ones would black out half of every line, and protect nothing
_MASK = "***"


def redactor(secrets: Iterable[str]) -> "Processor":
    """Return a processor that masks these values in every text, also when quoted or encoded."""
    forms: set[str] = set()
    for secret in secrets:
        if len(secret) >= _LEAST_SECRET:
            encoded = secret.encode("utf-8", "surrogateescape")
            forms |= {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
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

    def process(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
        for key, value in event.items():
            event[key] = mask(value)
        return event

    return process


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


def sink(log_format: str, level: Level, secrets: Iterable[str], stream: TextIO | None = None) -> Sink:
    """Return a sink that writes events of at least this level; `log_format` is json or console."""
    import structlog  # noqa: PLC0415 - a fifth of the start of a command that logs nothing

    stream = stream or sys.stderr
    redact = redactor(secrets)
    if log_format == "json":
        renderer: Processor = structlog.processors.JSONRenderer(
            serializer=json.dumps, ensure_ascii=True, default=str
        )
        shape = [_ordered]
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False, pad_event_to=20)
        shape = [_harmless]
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[_failure, redact, *shape, renderer],
        wrapper_class=structlog.BoundLogger,
    )
    write = {
        Level.DEBUG: logger.debug,
        Level.INFO: logger.info,
        Level.WARNING: logger.warning,
        Level.ERROR: logger.error,
    }

    def tell(event: Event) -> None:
        if event.level < level:
            return
        head = {
            "timestamp": event.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": event.level.name.lower(),
        }
        write[event.level](event.name, **head, **event.fields)

    return tell
