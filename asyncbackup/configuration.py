"""From the environment and its files to settings and databases, or to all that is wrong with them at once.

Nothing here looks at the process's environment: it comes in as a mapping, and leaves as one frozen Settings.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from asyncbackup import conf, variables
from asyncbackup.dbspec import MAX_PATH, is_utf8, shown
from asyncbackup.errors import ConfigError
from asyncbackup.model import Credentials, DatabaseSpec, Secret, Server
from asyncbackup.settings import GROUPS, Settings

_LOGIN = re.compile(r"[A-Z0-9_]{1,300}_(?:USER|PASSWORD)(?:_FILE)?")
_TLS_MODES = ("", "disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_MESSAGES = {
    "bool_parsing": "must be true or false",
    "greater_than": "must be longer than 0, such as 90s, 30m, 12h or 1d",
    "less_than_equal": "must be {le:.0f} seconds or less",
}


def _is_secret(field: str) -> bool:
    return Settings.model_fields[field].annotation is Secret


def _has_file(field: str) -> bool:
    return _is_secret(field) or field.endswith("_user")


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings, or raise ConfigError with every wrong variable; empty ones count as unset."""
    settings, problems = _understood(environ)
    if problems:
        raise ConfigError(problems)
    return settings


def read(environ: Mapping[str, str]) -> tuple[Settings, conf.Conf]:
    """Return settings and databases, or raise ConfigError with all that is wrong with either."""
    settings, problems = _understood(environ)
    found = conf.Conf()
    # The file that a wrong variable does not name is none of our business.
    if not any(problem.startswith("BACKUP_CONF") for problem in problems):
        try:
            found = databases(settings)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(tuple(dict.fromkeys(problems)))
    return settings, found


def _understood(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Return the settings, with defaults for what is wrong, and what is wrong."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in Settings.model_fields:
        name = field.upper()
        try:
            value = variables.read(environ, name) if _has_file(field) else environ.get(name, "").strip()
        except ConfigError as error:
            problems += error.problems
            continue
        if not is_utf8(value):
            problems.append(f"{name}: must be text in UTF-8")
        elif value.strip():
            values[field] = value
    if environ.get("PGSSLMODE", "") not in _TLS_MODES:
        problems.append(f"PGSSLMODE={shown(environ['PGSSLMODE'])}: must be one of{' '.join(_TLS_MODES)}")
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems += [_problem(details, values) for details in error.errors()]
        wrong = {details["loc"][0] for details in error.errors()}
        settings = Settings(**{field: value for field, value in values.items() if field not in wrong})
    problems += _secondary(settings)
    settings._logins = {  # noqa: SLF001 - ours
        name: Secret(value) for name, value in environ.items() if value and _LOGIN.fullmatch(name)
    }
    update: dict[str, object] = {}
    if settings.root_backup_dir:
        update["backup_dir"] = settings.root_backup_dir
    if settings.postgresql_port_num:
        update["default_port"] = settings.postgresql_port_num
    return settings.model_copy(update=update), problems


def _secondary(settings: Settings) -> Iterator[str]:
    """Yield what does not fit together about secondary locations."""
    if settings.s3_endpoint and not settings.s3_bucket:
        yield "S3_BUCKET: must be set, since S3_ENDPOINT is"
    if settings.s3_bucket and bool(settings.s3_user) != bool(settings.s3_password):
        yield f"S3_{'PASSWORD' if settings.s3_user else 'USER'}: must be set, since the other of the two is"
    if settings.ftp_tls == "off" and settings.ftp_url.reveal().lower().startswith("ftps:"):
        yield "FTP_TLS=off: does not go with a URL that begins with ftps://"
    authorities = settings.ftp_ca_file
    if authorities and not authorities.is_file():
        yield f"FTP_CA_FILE={shown(str(authorities), MAX_PATH)}: there is no such file"


def _problem(details: ErrorDetails, values: Mapping[str, str]) -> str:
    field = str(details["loc"][0])
    context = details.get("ctx", {})
    if details["type"] == "literal_error":
        wanted = "must be " + str(context["expected"]).replace("'", "")
    else:
        wanted = _MESSAGES.get(details["type"], "{error}").format(**{"error": details["msg"], **context})
    value = "" if _is_secret(field) else f"={shown(values.get(field, ''))}"
    return f"{field.upper()}{value}: {wanted}"


def credentials(settings: Settings, target: DatabaseSpec | Server) -> Credentials:
    """Return what to log in with at a server, or raise ConfigError; see `variables.credentials`."""
    logins = {name: secret.reveal() for name, secret in settings._logins.items()}  # noqa: SLF001 - ours
    return variables.credentials(logins, target.host, target.port)


def databases(settings: Settings) -> conf.Conf:
    """Return what to back up: the file's content, or the environment's one database where it lists none.

    Raises ConfigError for a file that is named but missing, or with every wrong line and unreadable login.
    """
    problems: dict[str, None] = {}
    try:
        found = conf.load(settings.backup_conf, default_port=settings.default_port)
    except FileNotFoundError as error:
        if "backup_conf" in settings.model_fields_set:
            problem = f"BACKUP_CONF={shown(str(settings.backup_conf), MAX_PATH)}: there is no such file"
            raise ConfigError([problem]) from error
        found = conf.Conf()
    except conf.WrongLinesError as error:
        problems |= dict.fromkeys(error.problems)
        found = error.rest
    if not found.lists_databases and not problems:
        host, port = settings.database_service_name, settings.default_port
        spec = DatabaseSpec(host, port, settings.postgresql_database)
        found = replace(found, databases=(spec,), lines=(0,))
    wanted = conf.wanted_servers(found.patterns)
    for server in dict.fromkeys([*(spec.server for spec in found.databases), *wanted]):
        try:
            credentials(settings, server)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(tuple(problems))
    return found


def reference() -> str:
    """Return the documentation of all variables, as Markdown tables."""
    lines = [
        "# Settings",
        "",
        "Every environment variable. An empty value counts as not set. Durations are seconds, or numbers",
        "with `d`, `h`, `m` or `s`. Where *file* is noted, `<NAME>_FILE` may name a file that holds the",
        "value, instead. All wrong values are reported at once, before anything is touched.",
    ]
    for field, info in Settings.model_fields.items():
        if field in GROUPS:
            lines += ["", f"## {GROUPS[field]}", "", "| Variable | Default | Meaning |", "|---|---|---|"]
        default = f"`{info.default}`" if info.default else ""
        meaning = " ".join((info.description or "").split()) + (" *(file)*" if _has_file(field) else "")
        lines.append(f"| `{field.upper()}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"
