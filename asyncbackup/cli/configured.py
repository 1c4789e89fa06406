"""Settings, databases and schedules as they were understood: as JSON, and for people."""

from typing import Any

from asyncbackup.cli import text
from asyncbackup.conf import Conf
from asyncbackup.configuration import credentials
from asyncbackup.model import DatabaseSpec, Secret
from asyncbackup.settings import Settings
from asyncbackup.targets.url import parse_ftp


def settings(values: Settings) -> dict[str, Any]:
    """Return every setting by its variable's name; secrets as *** when they are set."""
    shown: dict[str, Any] = {}
    for field in type(values).model_fields:
        value = getattr(values, field)
        if field == "ftp_url" and value:
            value = parse_ftp(value.reveal()).label
        elif isinstance(value, Secret):
            value = str(value) if value else ""
        elif field == "backup_file_mode":
            value = f"{value:04o}"
        elif isinstance(value, tuple):
            value = ":".join(str(item) for item in value)
        shown[field.upper()] = value if isinstance(value, bool | int | float) else str(value or "")
    return shown


def configuration(values: Settings, found: Conf) -> dict[str, Any]:
    """Return settings, databases and schedules as a JSON object."""
    return {
        "settings": settings(values),
        "databases": [_login(values, spec) for spec in found.databases],
        "patterns": [text.pattern(pattern) for pattern in found.patterns],
        "schedules": [
            {
                "line": s.line,
                "when": s.expression,
                "action": s.action.value,
                "spec": s.spec,
                "filter": s.filter,
            }
            for s in found.schedules
        ],
        "warnings": list(found.warnings),
    }


def _login(values: Settings, spec: DatabaseSpec) -> dict[str, Any]:
    found = credentials(values, spec)
    return {
        "database": text.database(spec),
        "host": spec.host,
        "port": spec.port,
        "dbname": spec.dbname,
        "user": found.user,
        "password": str(found.password) if found.password else None,
    }


def _as_set(value: object) -> str:
    """Return a setting as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def configuration_text(values: Settings, found: Conf) -> str:
    """Return settings, databases and schedules for people."""
    shown = configuration(values, found)
    variables = [f"{name}={_as_set(value)}" for name, value in shown["settings"].items() if value != ""]
    logins = [
        (
            f"  {one['database']}",
            f"user {one['user'] or 'as libpq finds it'}",
            "password ***" if one["password"] else "password as libpq finds it",
        )
        for one in shown["databases"]
    ]
    databases = text.table(
        ("Databases:", "", ""), [*logins, *((f"  {name}", "", "") for name in shown["patterns"])]
    )
    schedules = [f"{s['when']}  {s['action']} {s['spec']} {s['filter']}".rstrip() for s in shown["schedules"]]
    period = f"none: a pause of {text.seconds(values.backup_period)} between two cycles"
    return "\n\n".join(
        (text.lines("Settings:", variables), databases, text.lines("Schedules:", schedules or [period]))
    )
