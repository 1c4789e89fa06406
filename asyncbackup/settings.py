"""Every environment variable: its default, its check, its meaning; the documentation is made from it.

Defaults are written as a user would write them and pass through the same checks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from asyncbackup import units
from asyncbackup.dbspec import check_dbname, check_host
from asyncbackup.model import Secret


def _default(value: str | None) -> Any:  # noqa: ANN401 - mypy takes it for the parsed value
    return Field(value)


class Settings(BaseSettings):
    """What the environment asks for; `configuration.load` makes one."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # it may be a password
    )
    _logins: Mapping[str, Secret] = PrivateAttr(default_factory=dict)

    backup_conf: Path = _default("backup.conf")
    """File that lists databases and schedules. When this is set, the file must exist; the default may
    be missing, or list no database, and then the next two variables say what to back up."""
    database_service_name: Annotated[str, units.from_text(check_host)] = _default("postgresql")
    """Host of the default database: the one to back up when no file lists any."""
    postgresql_database: Annotated[str, BeforeValidator(check_dbname)] = _default("my_postgres_db")
    """Name of the default database."""
    default_port: units.Port = _default("5432")
    """Port, where none is named."""
    postgresql_port_num: units.Port | None = _default(None)
    """The same; when both are set, this one counts."""

    postgresql_user: str = _default("")
    """User for every server that has no `<HOST>_USER` of its own, such as `WALLET_DB_USER` for wallet-db:
    whatever is no letter or digit becomes `_`. `<HOST>_<PORT>_USER` goes first, and `HOST_` may stand
    before a name that begins with a digit. The same holds for `_PASSWORD`. What is found nowhere is left
    to libpq: `PGUSER`, `PGPASSFILE` and the like."""
    postgresql_password: units.Hidden = _default("")
    """Its password."""
    database_user: str = _default("")
    """The same, where `POSTGRESQL_USER` is not set."""
    database_password: units.Hidden = _default("")
    """Its password, where `POSTGRESQL_PASSWORD` is not set."""
    admin_user: str = _default("")
    """User who may create databases, for a restore; by default, the database's own user."""
    admin_password: units.Hidden = _default("")
    """Its password."""

    backup_dir: Path = _default("/backups/")
    """Folder under which backups are stored."""
    root_backup_dir: units.Folder = _default("")
    """The same; when both are set, this one counts."""
    backup_file_mode: Annotated[int, units.from_text(units.parse_mode)] = _default("0600")
    """Permissions of a backup: `0600`, or `0640` for readers of the same group, such as a verification
    job that runs as another user."""
    lock_dir: units.Folder = _default("")
    """Folder for lock files, where `BACKUP_DIR` is on a file system that cannot lock; by default,
    `BACKUP_DIR` itself. All jobs that share a backup folder must share it."""
    tz: Annotated[str, units.from_text(units.parse_zone)] = _default("")
    """Time zone of schedules, folder names and file names; by default, the machine's."""

    backup_strategy: Annotated[Literal["daily", "rolling"], units.Lower] = _default("daily")
    """`daily` keeps the newest `NUM_BACKUPS`; `rolling` keeps daily, weekly and monthly ones."""
    num_backups: units.Count = _default("31")
    """Backups of each database to keep with the `daily` strategy."""
    daily_backups: units.Count = _default("6")
    """Backups from Monday to Saturday to keep with the `rolling` strategy."""
    weekly_backups: units.Count = _default("4")
    """Backups from Sundays to keep with the `rolling` strategy."""
    monthly_backups: units.Count = _default("1")
    """Backups from the last day of a month to keep with the `rolling` strategy. 0 or less in all three:
    one daily backup is kept; a negative weekly or monthly count: the `daily` strategy is used."""
    backup_period: units.SomeSeconds = _default("1d")
    """Pause between two cycles, where no schedule is listed."""

    max_concurrent_dumps: units.Some = _default("4")
    """Databases to dump at the same time."""
    max_concurrent_dumps_per_server: units.Some = _default("4")
    """Databases to dump at the same time from one server."""
    backup_order: Annotated[Literal["largest", "listed"], units.Lower] = _default("largest")
    """`largest` starts with the largest, so that it does not run alone at the end; `listed` follows the
    file."""
    compression_level: units.Level = _default("1")
    """From 0, stored as it is, to 9, smallest; 1 is by far the fastest that compresses."""
    dump_stall_timeout: units.Seconds = _default("30m")
    """A dump that brings nothing for so long is ended, unless the server is at work on it; 0 waits for
    ever."""
    backup_deadline: units.Seconds = _default("0")
    """The longest that one database may take until its backup is published, with tries and pauses, but
    without waiting for its turn; 0 is no limit."""
    lock_wait_timeout: units.LockWait = _default("60s")
    """How long a dump waits for a table that something else has locked; 0 waits for ever."""
    connect_timeout: units.SomeSeconds = _default("10s")
    """How long a server may take to answer."""
    dump_retries: units.AnyOrNone = _default("2")
    """How often a dump is tried again after a failure that may pass by itself."""
    retry_delay: units.Seconds = _default("5s")
    """Pause before the first new try; each further pause is longer. Other databases go on meanwhile."""
    dump_globals: bool = _default("true")
    """Whether to back up each server's roles and tablespaces."""
    globals_passwords: bool = _default("false")
    """Whether that includes the password hashes: a superuser can read them, and so can pg_read_all_data."""
    pg_bindirs: Annotated[tuple[Path, ...], units.from_text(units.parse_folders)] = _default("")
    """More folders with PostgreSQL clients, with colons between them; they are looked into first."""
    shutdown_grace: units.Seconds = _default("8s")
    """How long running dumps may take to end when the program is told to stop."""

    table_schema: str = _default("public")
    """Schema in which a verification expects tables."""
    database_server_timeout: units.SomeSeconds = _default("30")
    """How long the server for verifications may take to start."""
    verify_dir: units.Folder = _default("")
    """Folder for the servers that verifications start, and that are deleted afterwards; by default, the
    temporary folder."""
    verify_level: Annotated[Literal["tables", "rows", "content"], units.Lower] = _default("content")
    """How much of a restored database is compared with its backup: `tables` are there, `rows` are as many,
    or `content`: every value is the same."""
    verify_budget: units.Seconds = _default("0")
    """After how long no further verification is begun; what was verified longest ago goes first. 0 is no
    limit."""
    verify_timeout: units.Seconds = _default("0")
    """The longest that one verification may take; 0 goes by the size of the backup."""
    verify_size_factor: units.Some = _default("20")
    """How many times larger than its SQL text a restored database may become; a gigabyte is always
    granted."""
    verify_templates: units.Folder = _default("")
    """Folder with a data directory for each major version of PostgreSQL (`15`, `16` …), made by initdb, to
    copy for verifications. Needed only where the user id has no entry in the user database."""
    max_concurrent_verifications: units.Some = _default("2")
    """Backups to verify at the same time."""
    restore_jobs: units.Some = _default("1")
    """Connections to restore a database over; with 1, it is restored in one transaction if possible."""

    ftp_url: units.HiddenFtp = _default("")
    """FTP folder to copy each backup to: `ftp://…` with TLS before the login, `ftps://…` with TLS from the
    first byte; empty turns it off. The path begins where the login leads; `%2F` first makes it absolute."""
    ftp_user: str = _default("")
    """User at the FTP server; where neither this nor the URL names one, `anonymous`."""
    ftp_password: units.Hidden = _default("")
    """Its password."""
    ftp_tls: Annotated[Literal["required", "off"], units.Lower] = _default("required")
    """`off` sends backups and password in clear text, for everyone on the way to read."""
    ftp_tls_verify: Annotated[Literal["full", "ca", "off"], units.Lower] = _default("full")
    """What is checked of the FTP server's certificate: `full`, who has signed it, and its name; `ca`, not its
    name; `off`, nothing."""
    ftp_ca_file: units.Folder = _default("")
    """File with the certificates that may sign the FTP server's; by default, those of the system."""
    ftp_server_name: str = _default("")
    """Name that the FTP server's certificate has, where it is not the URL's host."""
    ftp_passive: Annotated[Literal["auto", "pasv"], units.Lower] = _default("auto")
    """`pasv` asks the FTP server for data connections in the older of two ways only, for a firewall that does
    not know the newer one."""
    secondary_dir: units.Folder = _default("")
    """Folder to copy each backup to, on a second volume; it must be there, and is never made."""
    s3_endpoint: Annotated[str, units.from_text(units.parse_web)] = _default("")
    """URL of an S3 service to copy each backup to; with `S3_BUCKET` alone, it is Amazon's. Needs
    `asyncbackup[s3]`."""
    s3_bucket: str = _default("")
    """Bucket there; empty turns it off."""
    s3_prefix: str = _default("")
    """What the names of backups there begin with, such as `db/`."""
    s3_region: str = _default("us-east-1")
    """Region of the S3 service."""
    s3_user: str = _default("")
    """Access key there."""
    s3_password: units.Hidden = _default("")
    """Its secret."""
    max_concurrent_uploads: units.Some = _default("2")
    """Backups to copy at the same time, while others are dumped."""
    upload_rate_limit: units.Rate = _default("0")
    """Bytes a second that all copying together may take, such as `500k` or `10M`; 0 is no limit."""
    upload_retries: units.AnyOrNone = _default("3")
    """How often copying a backup is tried again after a failure that may pass by itself."""
    transfer_timeout: units.SomeSeconds = _default("60s")
    """How long a secondary location may take for each block and each answer."""
    remote_retention: units.Kept = _default("same")
    """How many backups of each database stay at secondary locations: the `same` as here, `none` is ever
    removed, or a count."""

    webhook_url: units.HiddenUrl = _default("")
    """URL to post notifications to; empty turns them off."""
    webhook_template: Path = _default("webhook-template.json")
    """File that gives notifications another shape; it may be missing."""
    environment_friendly_name: str = _default("")
    """Name of this environment, for people; goes into notifications."""
    environment_name: str = _default("")
    """Name or id of this environment, for links; goes into notifications."""
    pgduty_svc_key: units.Hidden = _default("")
    """PagerDuty integration key; empty turns it off."""
    pgduty_url: Annotated[str, units.from_text(units.parse_web)] = _default("")
    """Where PagerDuty takes events."""

    log_format: Annotated[Literal["auto", "json", "console"], units.Lower] = _default("auto")
    """`json`, one object a line; `console`, for people; `auto` chooses by whether a terminal reads."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], units.Lower] = _default("info")
    """The least that is logged."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the caller only: neither os.environ nor a stray .env file may add any."""
        return (init_settings,)


GROUPS = {
    "backup_conf": "What to back up",
    "postgresql_user": "Credentials",
    "backup_dir": "Where backups go",
    "backup_strategy": "How many are kept, and how often",
    "max_concurrent_dumps": "How dumps are made",
    "table_schema": "Verification",
    "ftp_url": "Copies elsewhere",
    "webhook_url": "Notifications",
    "log_format": "Logs",
}
"""The first variable of each group, and the group's title."""
