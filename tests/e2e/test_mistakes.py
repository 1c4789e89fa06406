"""What somebody is told who has named nothing, or something that is not there."""

from pathlib import Path

import pytest

from tests.servers import Cli

NOBODY = "127.0.0.1:1"  # where nothing listens


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    backups = tmp_path / "backups" / "2020-01-02"
    backups.mkdir(parents=True)
    (backups / "127.0.0.1-old_2020-01-02_03-04-05.sql.gz").write_bytes(b"x")
    return {
        "BACKUP_DIR": f"{backups.parent}",
        "CONNECT_TIMEOUT": "1",
        "DUMP_RETRIES": "0",
        "POSTGRESQL_USER": "x",
    }


def configured(env: dict[str, str], tmp_path: Path, *lines: str) -> dict[str, str]:
    (tmp_path / "some.conf").write_text("\n".join(lines))
    return {**env, "BACKUP_CONF": f"{tmp_path / 'some.conf'}", "DEFAULT_PORT": "1"}


@pytest.mark.parametrize("command", [["list"], ["prune", "--yes"], ["prune", "--dry-run"]])
def test_a_database_that_nobody_knows(
    run_cli: Cli, env: dict[str, str], tmp_path: Path, command: list[str]
) -> None:
    env = configured(env, tmp_path, f"{NOBODY}/shop", f"{NOBODY}/app_*")
    ran = run_cli(*command, "127.0.0.1/shpo", env=env)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"{NOBODY}/shpo is not configured, and has no backup" in ran.stderr
    assert f"did you mean {NOBODY}/shop?" in ran.stderr
    ran = run_cli(*command, "127.0.0.1/shop", "elsewhere:7/entirely", env=env)
    assert ran.returncode == 2
    assert "shop is not" not in ran.stderr


@pytest.mark.parametrize("name", ["shop", "app_new", "@globals", "old"])
def test_one_that_is_configured_or_has_a_backup(
    run_cli: Cli, env: dict[str, str], tmp_path: Path, name: str
) -> None:
    env = configured(env, tmp_path, f"{NOBODY}/shop", f"{NOBODY}/app_*")
    for command in (["list"], ["prune", "--yes"]):
        assert run_cli(*command, f"127.0.0.1/{name}", env=env).returncode == 0


def test_one_is_not_many(run_cli: Cli, env: dict[str, str]) -> None:
    assert "\n1 backup, 1 B in" in run_cli("list", env=env).stdout


def test_nobody_has_named_a_database(run_cli: Cli, env: dict[str, str], tmp_path: Path) -> None:
    said = "there is no backup.conf here, and no variable names one; the default database postgresql:5432/my_postgres_db is tried"
    assert said in run_cli("config", env=env).stderr
    assert said in run_cli("-c", command="backup.sh", env=env).stderr
    ran = run_cli("backup", env=env)
    assert ran.returncode == 1
    assert said in ran.stdout
    assert said in ran.stderr
    for chosen in ({"DATABASE_SERVICE_NAME": "127.0.0.1"}, configured(env, tmp_path, f"{NOBODY}/shop")):
        assert "is tried" not in run_cli("config", env={**env, **chosen}).stderr
    empty = configured(env, tmp_path, "# nothing")
    assert "some.conf lists no database, and no variable" in run_cli("config", env=empty).stderr


def test_both_ways_to_ask_for_help(run_cli: Cli) -> None:
    short, long = (run_cli(flag, command="backup.sh") for flag in ("-h", "--help"))
    assert (long.returncode, long.stdout) == (0, short.stdout)
    assert "Usage: backup.sh" in long.stdout
