"""The environment's variables: what they may be, what is said when they are not, what stays secret."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncbackup import configuration as module
from asyncbackup.configuration import credentials, databases, load, read, reference
from asyncbackup.errors import ConfigError
from asyncbackup.model import Credentials, DatabaseSpec, Secret, Server
from asyncbackup.settings import GROUPS, Settings
from asyncbackup.units import format_duration, parse_duration, parse_zone

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
DATABASE = DatabaseSpec("wallet-db", 5433, "my_wallet")


def problems(environ: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    return caught.value.problems


def login(
    environ: Mapping[str, str], target: DatabaseSpec | Server = DATABASE
) -> tuple[str | None, str | None]:
    found = credentials(load(environ), target)
    return found.user, found.password.reveal() if found.password else None


# --- Defaults and values


def test_defaults_are_those_of_old() -> None:
    found = load({})
    assert found.backup_dir == Path("/backups")
    assert found.backup_conf == Path("backup.conf")
    assert found.backup_strategy == "daily"
    assert (found.num_backups, found.daily_backups, found.weekly_backups, found.monthly_backups) == (
        31,
        6,
        4,
        1,
    )
    assert found.backup_period == 86400
    assert (found.database_service_name, found.postgresql_database) == ("postgresql", "my_postgres_db")
    assert found.default_port == 5432
    assert found.table_schema == "public"
    assert found.database_server_timeout == 30
    assert found.webhook_template == Path("webhook-template.json")


def test_defaults_of_what_is_new() -> None:
    found = load({})
    assert (found.max_concurrent_dumps, found.max_concurrent_dumps_per_server) == (4, 4)
    assert (found.backup_order, found.compression_level) == ("largest", 1)
    assert (found.dump_stall_timeout, found.backup_deadline) == (1800, 0)
    assert (found.lock_wait_timeout, found.connect_timeout) == (60, 10)
    assert (found.dump_retries, found.retry_delay) == (2, 5)
    assert found.backup_file_mode == 0o600
    assert (found.lock_dir, found.verify_dir, found.root_backup_dir) == (None, None, None)
    assert found.pg_bindirs == ()
    assert (found.dump_globals, found.globals_passwords) == (True, False)
    assert (found.log_format, found.log_level) == ("auto", "info")
    assert found.shutdown_grace == 8


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("NUM_BACKUPS", "0", 0),
        ("DAILY_BACKUPS", "-1", -1),
        ("WEEKLY_BACKUPS", " 7 ", 7),
        ("BACKUP_STRATEGY", "Rolling", "rolling"),
        ("BACKUP_PERIOD", "12h", 43200),
        ("BACKUP_PERIOD", "1d 12h", 129600),
        ("DUMP_STALL_TIMEOUT", "0", 0),
        ("BACKUP_FILE_MODE", "0640", 0o640),
        ("BACKUP_FILE_MODE", "640", 0o640),
        ("BACKUP_FILE_MODE", "0o600", 0o600),
        ("DUMP_GLOBALS", "no", False),
        ("GLOBALS_PASSWORDS", "TRUE", True),
        ("PG_BINDIRS", "/usr/bin::/", (Path("/usr/bin"), Path("/"))),
        ("FTP_URL", "ftp://u:p@example/backups/", Secret("ftp://u:p@example/backups/")),
        ("FTP_URL", "FTPS://[::1]:21/", Secret("FTPS://[::1]:21/")),
        ("LOCK_DIR", "/run/lock", Path("/run/lock")),
        ("TZ", "America/Vancouver", "America/Vancouver"),
        ("TZ", "PST8PDT,M3.2.0,M11.1.0", "PST8PDT,M3.2.0,M11.1.0"),
        ("TZ", ":/etc/localtime", ":/etc/localtime"),
        ("DATABASE_SERVICE_NAME", "/var/run/postgresql", "/var/run/postgresql"),
        ("POSTGRESQL_DATABASE", "quarterly report", "quarterly report"),
        ("WEBHOOK_URL", "http://localhost/hook", Secret("http://localhost/hook")),
        ("FTP_PASSWORD", " keeps its blanks ", Secret(" keeps its blanks ")),
        ("LOG_LEVEL", "WARNING", "warning"),
    ],
)
def test_a_value(name: str, text: str, value: object) -> None:
    assert getattr(load({name: text}), name.lower()) == value


def test_empty_values_count_as_unset() -> None:
    assert load({field.upper(): "" for field in Settings.model_fields}) == load({})
    assert load({"NUM_BACKUPS": "  ", "POSTGRESQL_PASSWORD_FILE": ""}) == load({})


def test_variables_that_override_others() -> None:
    found = load(
        {"BACKUP_DIR": "/a", "ROOT_BACKUP_DIR": "/b", "DEFAULT_PORT": "1", "POSTGRESQL_PORT_NUM": "2"}
    )
    assert (found.backup_dir, found.default_port) == (Path("/b"), 2)
    assert load({"DEFAULT_PORT": "1"}).default_port == 1


def test_only_the_given_mapping_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("NUM_BACKUPS=9\n")
    monkeypatch.setenv("NUM_BACKUPS", "8")
    assert load({}).num_backups == 31
    assert Settings().num_backups == 31


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}).num_backups = 1


# --- Wrong values


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("MAX_CONCURRENT_DUMPS", "many", 'MAX_CONCURRENT_DUMPS="many": must be a whole number of 1 or more'),
        (
            "MAX_CONCURRENT_DUMPS_PER_SERVER",
            "0",
            'MAX_CONCURRENT_DUMPS_PER_SERVER="0": must be a whole number of 1 or more',
        ),
        ("NUM_BACKUPS", "5.0", 'NUM_BACKUPS="5.0": must be a whole number'),
        ("NUM_BACKUPS", "9" * 5000, f'NUM_BACKUPS="{"9" * 60}…": must be a whole number'),
        ("DUMP_RETRIES", "-1", 'DUMP_RETRIES="-1": must be a whole number of 0 or more'),
        ("COMPRESSION_LEVEL", "10", 'COMPRESSION_LEVEL="10": must be a whole number from 0 to 9'),
        ("DEFAULT_PORT", "0", 'DEFAULT_PORT="0": must be a whole number from 1 to 65535'),
        (
            "POSTGRESQL_PORT_NUM",
            "tcp://1",
            'POSTGRESQL_PORT_NUM="tcp://1": must be a whole number from 1 to 65535',
        ),
        ("BACKUP_STRATEGY", "hourly", 'BACKUP_STRATEGY="hourly": must be daily or rolling'),
        ("BACKUP_ORDER", "random", 'BACKUP_ORDER="random": must be largest or listed'),
        ("BACKUP_PERIOD", "0", 'BACKUP_PERIOD="0": must be longer than 0, such as 90s, 30m, 12h or 1d'),
        ("BACKUP_PERIOD", "1w", 'BACKUP_PERIOD="1w": must be a duration such as 90, 90s, 30m, 12h or 1d'),
        (
            "BACKUP_DEADLINE",
            "-5m",
            'BACKUP_DEADLINE="-5m": must be a duration such as 90, 90s, 30m, 12h or 1d',
        ),
        ("LOCK_WAIT_TIMEOUT", "25d", 'LOCK_WAIT_TIMEOUT="25d": must be 2147483 seconds or less'),
        (
            "BACKUP_FILE_MODE",
            "0666",
            'BACKUP_FILE_MODE="0666": must be 0600, or 0640 for readers of the same group',
        ),
        ("DUMP_GLOBALS", "maybe", 'DUMP_GLOBALS="maybe": must be true or false'),
        (
            "TZ",
            "Amerika/Vancouver",
            'TZ="Amerika/Vancouver": must be a time zone such as America/Vancouver or UTC',
        ),
        (
            "TZ",
            "../../etc/passwd",
            'TZ="../../etc/passwd": must be a time zone such as America/Vancouver or UTC',
        ),
        (
            "DATABASE_SERVICE_NAME",
            "a b",
            'DATABASE_SERVICE_NAME="a b": the host "a b" must be a name, an address or the folder of a socket',
        ),
        (
            "POSTGRESQL_DATABASE",
            "x" * 64,
            f'POSTGRESQL_DATABASE="{"x" * 60}…": the database name "{"x" * 60}…" has 64 bytes; the most is 63',
        ),
        ("LOG_FORMAT", "xml", 'LOG_FORMAT="xml": must be auto, json or console'),
        ("LOG_LEVEL", "trace\x1b", 'LOG_LEVEL="trace\\x1b": must be debug, info, warning or error'),
        ("S3_ENDPOINT", "minio:9000", 'S3_ENDPOINT="minio:9000": must begin with https:// or http://'),
        ("WEBHOOK_URL", "hooks/s3cret", "WEBHOOK_URL: must begin with https:// or http://"),
        ("ENVIRONMENT_NAME", "\udcff", "ENVIRONMENT_NAME: must be text in UTF-8"),
    ],
)
def test_a_wrong_value_says_what_would_be_right(name: str, text: str, message: str) -> None:
    assert problems({name: text}) == (message,)


def test_all_wrong_values_are_reported_together(tmp_path: Path) -> None:
    found = problems(
        {
            "NUM_BACKUPS": "x",
            "LOG_LEVEL": "y",
            "FTP_PASSWORD_FILE": str(tmp_path / "none"),
            "TZ": "UTC",
            "DEFAULT_PORT": "z",
        }
    )
    assert [line.partition("=")[0] for line in found] == [
        "FTP_PASSWORD_FILE",
        "DEFAULT_PORT",
        "NUM_BACKUPS",
        "LOG_LEVEL",
    ]


def test_a_machine_without_zone_data_takes_any_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncbackup.units.available_timezones", set)
    assert parse_zone("Amerika/Vancouver") == "Amerika/Vancouver"


@pytest.mark.parametrize("url", ["http://hunter2/", "hunter2", "sftp://hunter2/", "ftp://", "ftp:///hunter2"])
def test_a_url_that_is_no_ftp_folder_is_not_repeated(url: str) -> None:
    assert problems({"FTP_URL": url}) == ("FTP_URL: must begin with ftp:// or ftps://, and name a host",)


def test_folders_of_clients_must_be_there() -> None:
    assert problems({"PG_BINDIRS": "/:/nope:/none"}) == (
        'PG_BINDIRS="/:/nope:/none": must be folders that exist; number 2 does not',
    )


def test_libpq_knows_six_tls_modes() -> None:
    assert problems({"PGSSLMODE": "bogus"}) == (
        'PGSSLMODE="bogus": must be one of disable allow prefer require verify-ca verify-full',
    )
    assert load({"PGSSLMODE": "verify-ca"}) == load({"PGSSLMODE": ""})


def test_variables_lines_and_logins_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "backup.conf"
    path.write_text("a/x\nnonsense\nb/*\n1 2 3\n")
    environ = {
        "BACKUP_CONF": f"{path}",
        "NUM_BACKUPS": "many",
        "DEFAULT_PORT": "none",
        "A_USER_FILE": "/none",
        "B_PASSWORD_FILE": "/none",
        "POSTGRESQL_PASSWORD_FILE": "/none",
    }
    with pytest.raises(ConfigError) as caught:
        read(environ)
    said = [
        line.partition("=")[0].partition(f"{path}:")[2] or line.partition("=")[0]
        for line in caught.value.problems
    ]
    assert [one[:2] if one[0].isdigit() else one for one in said] == [
        "POSTGRESQL_PASSWORD_FILE",
        "DEFAULT_PORT",
        "NUM_BACKUPS",
        "2:",
        "4:",
        "A_USER_FILE",
        "B_PASSWORD_FILE",
    ]


def test_where_the_file_is_wrong_nothing_is_said_of_another_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("backup.conf").write_text("nonsense\n")
    with pytest.raises(ConfigError) as caught:
        read({"BACKUP_CONF": "\udcff", "NUM_BACKUPS": "x"})
    assert [line[:11] for line in caught.value.problems] == ["BACKUP_CONF", "NUM_BACKUPS"]
    with pytest.raises(ConfigError) as caught:
        read({"BACKUP_CONF": "none", "POSTGRESQL_DATABASE": "x", "NUM_BACKUPS": "x"})
    assert [line[:11] for line in caught.value.problems] == ["NUM_BACKUPS", "BACKUP_CONF"]


# --- Secrets and files


def _begins(field: str) -> str:
    return "ftp" if field == "ftp_url" else "https"


def test_secrets_show_themselves_only_on_demand() -> None:
    environ = {
        **{
            field.upper(): f"{_begins(field)}://hunter2"
            for field in Settings.model_fields
            if module._is_secret(field)
        },
        "WALLET_DB_PASSWORD": "hunter2",
    }
    found = load(environ)
    for text in (
        repr(found),
        str(found),
        repr(found.model_dump()),
        found.model_dump_json(),
        repr(found.__pydantic_private__),
    ):
        assert "hunter2" not in text
    assert found.ftp_password.reveal() == "https://hunter2"


def test_a_wrong_setting_shows_no_secret_in_its_traceback() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"WEBHOOK_URL": "hunter2", "FTP_PASSWORD": "hunter2", "FTP_URL": "http://hunter2"})
    assert "hunter2" not in repr(caught.value) + str(caught.value.__cause__)


@pytest.mark.parametrize("field", [field for field in Settings.model_fields if module._has_file(field)])
def test_a_file_may_hold_any_secret_or_user(field: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{_begins(field)}://pässword\n")
    value = getattr(load({f"{field.upper()}_FILE": str(path)}), field)
    assert (value.reveal() if isinstance(value, Secret) else value) == f"{_begins(field)}://pässword"


@pytest.mark.parametrize(
    ("content", "value"),
    [("a\n", "a"), ("a\r\n", "a"), (" a \n\n", " a \n"), ("a", "a"), ("\n", ""), ("", "")],
)
def test_one_line_end_at_the_end_is_taken_off(content: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content.encode())
    assert load({"FTP_PASSWORD_FILE": str(path)}).ftp_password.reveal() == value


def test_a_value_and_a_file_are_one_too_many() -> None:
    assert problems({"FTP_PASSWORD": "hunter2", "FTP_PASSWORD_FILE": "/x"}) == (
        "FTP_PASSWORD_FILE: FTP_PASSWORD is set, too; set only one of them",
    )


def test_files_that_are_none(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("none", "fifo", "binary", "nul", "long")}
    os.mkfifo(paths["fifo"])
    paths["binary"].write_bytes(b"\xff")
    paths["nul"].write_bytes(b"a\0b")
    paths["long"].write_bytes(b"a" * 70_000)
    said = {
        name: problems({"S3_PASSWORD_FILE": str(path)})
        for name, path in [*paths.items(), ("folder", tmp_path)]
    }
    assert {name: line.rpartition('": ')[2] for name, (line,) in said.items()} == {
        "none": "cannot be read: No such file or directory",
        "fifo": "is no regular file",
        "binary": "must be text in UTF-8",
        "nul": "must be a short text",
        "long": "must be a short text",
        "folder": "is no regular file",
    }


# --- Credentials


def test_credentials_by_host() -> None:
    environ = {
        "WALLET_DB_USER": "host",
        "WALLET_DB_PASSWORD": "host-password",
        "WALLET_DB_5433_USER": "port",
        "WALLET_DB_5433_PASSWORD": "port-password",
        "POSTGRESQL_USER": "general",
        "POSTGRESQL_PASSWORD": "general-password",
        "DATABASE_USER": "later",
        "DATABASE_PASSWORD": "later-password",
    }
    assert login(environ) == ("port", "port-password")
    assert login(environ, DatabaseSpec("wallet-db", 5432, "x")) == ("host", "host-password")
    assert login(environ, Server("other", 5432)) == ("general", "general-password")
    del environ["POSTGRESQL_USER"], environ["POSTGRESQL_PASSWORD"]
    assert login(environ, Server("other", 5432)) == ("later", "later-password")
    assert login(environ, Server("Wallet.DB", 1)) == ("host", "host-password")


def test_without_credentials_libpq_decides() -> None:
    assert credentials(load({"PGUSER": "x"}), DATABASE) == Credentials(user=None, password=None)


def test_user_and_password_are_looked_for_separately() -> None:
    assert login({"WALLET_DB_PASSWORD": "p", "POSTGRESQL_USER": "u"}) == ("u", "p")
    assert login({"WALLET_DB_USER": "u"}) == ("u", None)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("10.0.0.1", "10_0_0_1"),
        ("10.0.0.1", "HOST_10_0_0_1"),
        ("::1", "__1"),
        ("2001:db8::7", "HOST_2001_DB8__7"),
        ("db.example.org", "DB_EXAMPLE_ORG"),
        ("/var/run/postgresql", "_VAR_RUN_POSTGRESQL"),
        ("bücher", "B_CHER"),
        ("postgresql", "POSTGRESQL"),
    ],
)
def test_names_of_hosts(host: str, name: str) -> None:
    assert login({f"{name}_USER": "u", f"{name}_5432_PASSWORD": "p"}, Server(host, 5432)) == ("u", "p")


def test_credentials_in_files_are_read_at_each_call(tmp_path: Path) -> None:
    user, password = tmp_path / "user", tmp_path / "password"
    user.write_text("u\n")
    password.write_text("old\n")
    found = load({"WALLET_DB_USER_FILE": str(user), "WALLET_DB_5433_PASSWORD_FILE": str(password)})
    assert credentials(found, DATABASE) == Credentials(user="u", password=Secret("old"))
    password.write_text("new\n")
    assert credentials(found, DATABASE) == Credentials(user="u", password=Secret("new"))


def test_wrong_credentials_are_reported_together() -> None:
    found = load(
        {"WALLET_DB_USER_FILE": "/none", "WALLET_DB_PASSWORD": "p", "WALLET_DB_PASSWORD_FILE": "/none"}
    )
    with pytest.raises(ConfigError) as caught:
        credentials(found, DATABASE)
    assert caught.value.problems == (
        'WALLET_DB_USER_FILE="/none": cannot be read: No such file or directory',
        "WALLET_DB_PASSWORD_FILE: WALLET_DB_PASSWORD is set, too; set only one of them",
    )


# --- Which databases


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        databases(load({"BACKUP_CONF": str(tmp_path / "none")}))
    assert caught.value.problems == (f'BACKUP_CONF="{tmp_path / "none"}": there is no such file',)


def test_without_a_file_the_environment_names_the_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = databases(
        load({"POSTGRESQL_PORT_NUM": "99", "DATABASE_SERVICE_NAME": "db", "POSTGRESQL_DATABASE": "a"})
    )
    assert found.databases == (DatabaseSpec("db", 99, "a"),)
    assert found.lines == (0,)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "mongo=db/a\n", "!db/a\n", "@daily default ./backup.sh -s\n"]
)
def test_so_it_does_when_the_file_lists_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "backup.conf"
    path.write_text(text)
    found = databases(load({"BACKUP_CONF": str(path)}))
    assert [str(spec) for spec in found.databases] == ["postgresql:5432/my_postgres_db"]
    assert len(found.schedules) == text.startswith("@")


@pytest.mark.parametrize("text", ["db/a\n", "db/*\n", "!db/b\ndb/*\n"])
def test_a_file_that_lists_databases_is_all_that_counts(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("backup.conf").write_text(text)
    found = databases(load({"DATABASE_SERVICE_NAME": "other"}))
    assert all(spec.host == "db" for spec in found.databases)
    assert found.lists_databases


def test_unreadable_credentials_of_listed_servers_are_found_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "backup.conf"
    path.write_text("a/x\na/y\nb/*\nc/x\n")
    with pytest.raises(ConfigError) as caught:
        databases(load({"BACKUP_CONF": str(path), "A_USER_FILE": "/none", "B_PASSWORD_FILE": "/none"}))
    assert caught.value.problems == (
        'A_USER_FILE="/none": cannot be read: No such file or directory',
        'B_PASSWORD_FILE="/none": cannot be read: No such file or directory',
    )


# --- Documentation


def test_the_reference_is_made_from_the_code() -> None:
    assert REFERENCE.read_text() == reference(), (
        "write it anew: python -c 'from asyncbackup.configuration import reference; print(reference(), end=\"\")'"
        " > docs/reference/settings.md"
    )


def test_every_variable_is_documented_once() -> None:
    for field, info in Settings.model_fields.items():
        assert info.description, field
        assert "|" not in info.description
        assert len(re.findall(rf"^\| `{field.upper()}` \|", reference(), re.MULTILINE)) == 1
    assert set(GROUPS) <= set(Settings.model_fields)


# --- Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("12H", 43200),
        ("1d", 86400),
        ("1d12h", 129600),
        ("0.5h", 1800),
        ("1h 30m", 5400),
    ],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "-1", "1 5s", "5s 1 2", "1e3", "inf", "nan", "1.h", "9" * 20, "99999d", "1h;", "\u0661"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 90, 90s, 30m, 12h or 1d"):
        parse_duration(text)


@given(st.integers(0, 10_000_000))
def test_durations_are_read_as_they_are_written(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


# --- Laws

values = st.text(st.characters(exclude_characters="\0"), max_size=100)
environs = st.dictionaries(st.sampled_from([field.upper() for field in Settings.model_fields]), values)


@given(environs)
@example({"BACKUP_DIR": "\udcff"})
@example({"PG_BINDIRS": "\udcff"})
@example({"TZ": "a/\ud800"})
@example({"TZ": "x" * 5000})
@example({"POSTGRESQL_USER": "\udcff"})
def test_any_environment_raises_nothing_but_a_config_error(environ: dict[str, str]) -> None:
    try:
        found = load(environ)
    except ConfigError as error:
        lines = error.problems
    else:
        assert load(environ) == found
        lines = ("fine",)
    assert lines
    assert all(line.isprintable() and len(line) < 300 for line in lines)


@given(st.text("0123456789dhms. -", max_size=30))
def test_a_duration_is_a_number_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0
    assert 0 <= seconds < float("inf")
