"""The throw-away server fails, is slow, dies, or was left behind (F44); and what a dump may do to it."""

import ast
import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from asyncbackup import process
from asyncbackup.errors import ClientError
from asyncbackup.postgres import cluster as module
from asyncbackup.postgres import folders
from asyncbackup.postgres.cluster import SCRATCH, Cluster, cluster
from asyncbackup.postgres.folders import network_of
from tests.invariants import small_disk
from tests.processes import alive, empty_place, gone
from tests.servers import DEBIAN, bindir_of, running

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# A program that becomes an account, and holds a cluster. It imports first: that account may not be able to
# read our interpreter's library.
HOLDER = """
import ast, asyncio, concurrent.futures.thread, os, pathlib, signal, sys
from asyncbackup import process
from asyncbackup.errors import ClientError
from asyncbackup.postgres.cluster import SCRATCH, cluster
bindir, options, (uid, gid), helpers = ast.literal_eval(sys.argv[1])
if uid:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
if not helpers:
    process._util_linux = lambda name: None
for name in ("root", "template"):
    options[name] = pathlib.Path(options[name]) if options.get(name) else None
async def hold():
    async with cluster(pathlib.Path(bindir), settings=SCRATCH, **options) as it:
        connection = await it.connect()
        who = await connection.fetchval("SELECT current_user::text || '/' || (SELECT count(*) FROM pg_roles WHERE rolsuper)")
        await connection.close()
        print([it.pid, who, it.network.name, os.stat(it.datadir).st_uid, os.stat(it.datadir).st_gid, it.usage(), [*map(str, it.swept.removed)]], flush=True)
        if sys.argv[2] == "stay":
            await asyncio.sleep(60)
try:
    asyncio.run(hold())
except ClientError as error:
    print([str(error), error.hint])
"""

WITHOUT_ENTRY = (1_000_650_000, 0)


@pytest.fixture
def place() -> Iterator[Path]:
    with empty_place() as folder:
        yield folder


@pytest.fixture(scope="session")
def bindir() -> Path:
    """A server that every account can run."""
    found = next((DEBIAN / f"{major}" / "bin" for major in (18, 17, 16, 15) if (DEBIAN / f"{major}" / "bin" / "initdb").is_file()), None)  # fmt: skip
    found = found or bindir_of(18) or bindir_of(16)
    if found is None:
        pytest.skip("there is no PostgreSQL")
    return found


@pytest.fixture(scope="module")
def template(bindir: Path) -> Iterator[Path]:
    """A data directory as an image would carry it: group root may read it, and nobody else."""
    with empty_place() as folder:
        owner = folder / "owned"
        owner.mkdir()
        if as_nobody := os.geteuid() == 0:
            shutil.chown(owner, "nobody")
        made = owner / "data"
        options = [
            "-U",
            "asyncbackup",
            "-E",
            "UTF8",
            "--locale=C",
            "--allow-group-access",
            "--wal-segsize=1",
            "--no-sync",
            "-A",
            "trust",
        ]
        subprocess.run([bindir / "initdb", "-D", made, *options], check=True, capture_output=True, user="nobody" if as_nobody else None, cwd="/", env={})  # fmt: skip
        if as_nobody:
            for path in (made, *made.rglob("*")):
                os.chown(path, -1, 0)
        yield made
        shutil.rmtree(owner)


@pytest.fixture(scope="module")
def running_one(bindir: Path, template: Path) -> Iterator[Cluster]:
    """A server as a verification has it, for tests that only look."""
    with running("scratch", bindir, template=template, settings=SCRATCH, isolated=True) as it:
        yield it.cluster


def holder(
    bindir: Path,
    account: tuple[int, int] = (0, 0),
    then: str = "end",
    *,
    helpers: bool = True,
    **options: str | bool,
) -> "subprocess.Popen[str]":
    """Start a program that holds a cluster; it says which, or why not."""
    described = repr((f"{bindir}", options, account, helpers))
    command = [sys.executable, "-c", HOLDER, described, then]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")


def said(child: "subprocess.Popen[str]") -> list[object]:
    """Return what a holder says."""
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, "the holder failed"
    found: list[object] = ast.literal_eval(line)
    return found


def wrapper(folder: Path, bindir: Path, program: str, script: str) -> Path:
    """Make a folder of server programs, one of which is a shell script."""
    folder.mkdir()
    for name in ("initdb", "postgres", "psql"):
        text = f'[ "$1" = --version ] && exec {bindir}/{name} "$@"\n' + (script if name == program else "")
        (folder / name).write_text(f'#!/bin/sh\n{text}\nexec {bindir}/{name} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A place for what a test makes and `place` must not hold."""
    with empty_place() as folder:
        yield folder
        for left in folder.iterdir():
            shutil.rmtree(left)


async def value(it: Cluster, sql: str) -> object:
    connection = await it.connect()
    try:
        return await connection.fetchval(sql)
    finally:
        connection.terminate()


# Starting


async def test_f44_initdb_that_fails_says_why(place: Path, elsewhere: Path, bindir: Path) -> None:
    wrapped = wrapper(elsewhere / "bin", bindir, "initdb", "echo >&2 initdb: no space; exit 1")
    with pytest.raises(ClientError, match="initdb failed: initdb: no space"):
        async with cluster(wrapped, root=place):
            pass


async def test_f44_a_server_that_ends_at_once_says_why(
    place: Path, elsewhere: Path, bindir: Path, template: Path
) -> None:
    wrapped = wrapper(elsewhere / "bin", bindir, "postgres", "echo >&2 FATAL: no memory; exit 3")
    with pytest.raises(ClientError, match=r"did not come up \(it ended with status 3\): FATAL: no memory"):
        async with cluster(wrapped, root=place, template=template):
            pass


async def test_f44_a_server_that_never_comes_up_is_given_up(
    place: Path, elsewhere: Path, bindir: Path, template: Path
) -> None:
    wrapped = wrapper(elsewhere / "bin", bindir, "postgres", "echo >&2 LOG: recovering; exec sleep 60")
    with pytest.raises(ClientError, match=r"did not come up within 0\.3 s: LOG: recovering") as caught:
        async with cluster(wrapped, root=place, template=template, patience=0.3):
            pass
    assert "DATABASE_SERVER_TIMEOUT" in caught.value.hint


async def test_f44_a_root_is_made_and_one_that_cannot_be_is_named(
    place: Path, bindir: Path, template: Path
) -> None:
    deep = place / "not" / "there"
    before = os.umask(0o077)
    try:
        async with cluster(bindir, root=deep, template=template) as it:
            assert await value(it, "SELECT 1") == 1
            assert stat.S_IMODE(deep.stat().st_mode) == (0o711 if it.account else 0o700)
    finally:
        os.umask(before)
    shutil.rmtree(place / "not")
    file = place / "file"
    file.touch()
    with pytest.raises(ClientError, match=f"in {file}/root") as caught:
        async with cluster(bindir, root=file / "root", template=template):
            pass
    assert "VERIFY_DIR" in caught.value.hint
    file.unlink()


@pytest.mark.parametrize("from_template", [True, False])
async def test_f44_a_full_disk_says_so(
    elsewhere: Path, bindir: Path, template: Path, *, from_template: bool
) -> None:
    for disk in small_disk(elsewhere / "disk", "size=8m"):
        with pytest.raises(ClientError, match="No space left on device"):
            async with cluster(bindir, root=disk, template=template if from_template else None):
                pass
        assert list(disk.iterdir()) == []


# Ending


async def test_f44_a_postmaster_that_was_killed_is_found_out(
    place: Path, bindir: Path, template: Path
) -> None:
    async with cluster(bindir, root=place, template=template, settings=SCRATCH) as it:
        assert it.alive
        assert it.failure() is None
        connection = await it.connect()
        os.kill(it.pid, signal.SIGKILL)
        await it.server.wait()
        failure = it.failure()
        assert failure is not None
        assert "ended by itself, with status -9" in failure.message
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await value(it, "SELECT 1")
        connection.terminate()


async def test_f44_a_backend_that_crashes_does_not_end_the_server(
    place: Path, bindir: Path, template: Path
) -> None:
    async with cluster(bindir, root=place, template=template, settings=SCRATCH) as it:
        other = await it.connect()
        await other.execute("CREATE TABLE kept (a int); INSERT INTO kept VALUES (1)")
        backend = await it.connect()
        assert it.crashes() == 0
        os.kill(await backend.fetchval("SELECT pg_backend_pid()"), signal.SIGSEGV)
        for one in (backend, other):
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await one.fetchval("SELECT pg_sleep(10)")
        found = None
        for _ in range(3000):
            if found := await unless_restarting(it, "SELECT count(*) FROM kept"):
                break
            await asyncio.sleep(0.02)
        assert found == 1
        assert it.alive
        assert it.crashes() == 1


async def unless_restarting(it: Cluster, sql: str) -> object:
    try:
        return await value(it, sql)
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
        return None


async def test_f44_what_a_dump_has_started_ends_with_the_server(
    place: Path, bindir: Path, template: Path
) -> None:
    async with cluster(bindir, root=place, template=template, isolated=True) as it:
        stays = "setsid sleep 600 >/dev/null 2>&1 & echo $!"
        hides = "cd / && setsid env -i sleep 600 >/dev/null 2>&1 & echo $!"
        closes = "mkdir -p closed/inner && touch closed/inner/file && chmod 0 closed/inner closed"
        connection = await it.connect()
        await connection.execute(
            f"CREATE TABLE pids (pid int);COPY pids FROM PROGRAM '{stays}'; COPY pids FROM PROGRAM '{closes}'"
        )
        if it.isolated:
            await connection.execute(f"COPY pids FROM PROGRAM '{hides}'")
        pids = [row[0] for row in await connection.fetch("SELECT pid FROM pids")]
        assert all(alive(pid) for pid in pids)
        assert it.usage() > 0
        # Such a program holds the session's socket, and a polite end would wait for that.
        connection.terminate()
    assert pids
    assert gone(lambda: any(alive(pid) for pid in pids))


@pytest.mark.skipif(process._util_linux("setpriv") is None, reason="util-linux's setpriv is not installed")
def test_f44_ctrl_c_leaves_nothing(place: Path, bindir: Path, template: Path) -> None:
    with holder(bindir, then="stay", root=f"{place}", template=f"{template}", isolated=True) as child:
        pid = said(child)[0]
        child.send_signal(signal.SIGINT)
        assert child.wait(20) != 0
    assert isinstance(pid, int)
    assert not alive(pid)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("helpers", [True, False])
def test_f44_what_a_killed_run_left_is_removed_by_the_next(
    place: Path, bindir: Path, template: Path, *, helpers: bool
) -> None:
    """With util-linux, the server ends with the run that is killed; without, the next one ends it."""
    if helpers and process._util_linux("setpriv") is None:
        pytest.skip("util-linux's setpriv is not installed")
    with holder(bindir, then="stay", helpers=helpers, root=f"{place}", template=f"{template}") as child:
        pid = said(child)[0]
        child.kill()
    assert isinstance(pid, int)
    (left,) = place.iterdir()
    if helpers:
        assert gone(lambda: alive(pid))
    else:
        assert alive(pid)
    with holder(bindir, root=f"{place}", template=f"{template}") as following:
        assert said(following)[6] == [f"{left}"]
    assert not alive(pid)


# Sweeping


async def test_f44_a_sweep_touches_nothing_that_lives_or_is_not_ours(
    place: Path, elsewhere: Path, bindir: Path, template: Path
) -> None:
    strange = [
        place / name for name in ("asyncbackup-pg-full", "asyncbackup-pg", "else", ".asyncbackup-pg-x")
    ]
    for folder in strange:
        folder.mkdir()
        (folder / "file").touch()
    (place / "asyncbackup-pg-file").touch()
    (elsewhere / "lock").touch()
    (place / "asyncbackup-pg-link").symlink_to(elsewhere)
    strange += [place / "asyncbackup-pg-file", place / "asyncbackup-pg-link"]
    if os.geteuid() == 0:
        of_another = place / "asyncbackup-pg-another"
        of_another.mkdir()
        (of_another / "lock").touch()
        shutil.chown(of_another, "nobody")
        strange.append(of_another)
    async with cluster(bindir, root=place, template=template) as one:
        async with cluster(bindir, root=place, template=template) as two:
            assert one.swept == two.swept == folders.Swept()
            assert folders.sweep(place) == folders.Swept()
            assert [await value(it, "SELECT 1") for it in (one, two)] == [1, 1]
        assert all(path.exists() for path in strange)
    (elsewhere / "lock").unlink()
    for path in strange:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def test_f44_a_sweep_takes_what_was_killed_before_its_lock(place: Path) -> None:
    (place / "asyncbackup-pg-new").mkdir()
    half = place / "asyncbackup-pg-half"
    (half / "data" / "base").mkdir(parents=True)
    (half / "lock").touch()
    assert folders.sweep(place).removed == (half, place / "asyncbackup-pg-new")


def test_f44_sweeps_and_new_servers_do_not_disturb_each_other(place: Path) -> None:
    end = threading.Event()

    async def make() -> None:
        for _ in range(20):
            async with folders.folder(place, None) as made:
                data = folders.subfolder(made.path, "data", None)
                await asyncio.sleep(0.001)
                (data / "file").touch()

    def sweep() -> None:
        while not end.is_set():
            assert not folders.sweep(place).stuck

    with ThreadPoolExecutor() as executor:
        sweepers = [executor.submit(sweep) for _ in range(2)]
        makers = [executor.submit(asyncio.run, make()) for _ in range(2)]
        wait(makers)
        end.set()
        for future in (*makers, *sweepers):
            future.result()


# Accounts


def isolation_of(account: tuple[int, int]) -> str:
    """Return what the kernel lets this ordinary user do."""
    command = ["unshare", "--user", "--map-current-user", "--net", "true"]
    uid, gid = account
    tried = subprocess.run(command, user=uid, group=gid, extra_groups=[], check=False, capture_output=True)
    return "OURS" if tried.returncode else "NONE_OF_USER"


@as_root
def test_f44_as_an_ordinary_user(place: Path, bindir: Path) -> None:
    place.chmod(0o777)
    nobody = (65534, 65534)
    with holder(bindir, nobody, root=f"{place}", superuser="s_1", isolated=True) as child:
        found = said(child)
    assert found[1] == "s_1/1"
    assert found[2] == isolation_of(nobody)
    assert found[3:5] == [*nobody]


@as_root
def test_f44_as_a_user_without_an_entry(place: Path, bindir: Path, template: Path) -> None:
    place.chmod(0o777)
    options: dict[str, Any] = {"root": f"{place}", "superuser": "s_1", "isolated": True}
    with holder(bindir, WITHOUT_ENTRY, template=f"{template}", **options) as child:
        found = said(child)
    assert found[1] == "s_1/1"
    assert found[2] == isolation_of(WITHOUT_ENTRY)
    assert found[3:5] == [*WITHOUT_ENTRY]
    with holder(bindir, WITHOUT_ENTRY, **options) as child:
        message, hint = said(child)
    assert "user id 1000650000 has no entry" in f"{message}"
    assert "VERIFY_TEMPLATES" in f"{hint}"
    assert "libnss_wrapper" in f"{hint}"


async def test_f44_a_template_stays_as_it_is_and_serves_many(
    place: Path, bindir: Path, template: Path
) -> None:
    def seen() -> list[tuple[str, int, int, int]]:
        paths = [template, *template.rglob("*")]
        return sorted((f"{p}", p.lstat().st_mtime_ns, p.lstat().st_mode, p.lstat().st_uid) for p in paths)

    before = seen()
    (template / "postmaster.pid").touch()  # as of an image that was made carelessly
    try:
        for name in ("postgres", 'it"s'):
            async with cluster(
                bindir, root=place, template=template, superuser=name, tcp=name == "postgres"
            ) as it:
                assert it.user == name
                names = "SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolname !~ '^pg_'"
                assert await value(it, names) == name
                assert stat.S_IMODE(it.datadir.stat().st_mode) == 0o700
                assert stat.S_IMODE((it.datadir / "PG_VERSION").stat().st_mode) == 0o600
                if it.host == "127.0.0.1":
                    with pytest.raises(asyncpg.InvalidPasswordError):
                        await asyncpg.connect(
                            host=it.host, port=it.port, user=name, password="guess", ssl=False
                        )
    finally:
        (template / "postmaster.pid").unlink()
    assert [row for row in seen() if row[0] != f"{template}"] == [
        row for row in before if row[0] != f"{template}"
    ]


async def test_f44_a_template_that_does_not_fit(
    place: Path, elsewhere: Path, bindir: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClientError, match="cannot copy the template /nowhere") as caught:
        async with cluster(bindir, root=place, template=Path("/nowhere")):
            pass
    assert "VERIFY_TEMPLATES" in caught.value.hint
    monkeypatch.setattr(module, "TEMPLATE_SUPERUSER", "somebody")
    with pytest.raises(ClientError, match="the template's superuser is not somebody") as caught:
        async with cluster(bindir, root=place, template=template):
            pass
    assert "initdb -U" in caught.value.hint
    older = elsewhere / "older"
    older.mkdir()
    (older / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ClientError, match=r"is of PostgreSQL 9\.6"):
        async with cluster(bindir, root=place, template=older):
            pass


# Isolation


def interfaces(text: str) -> set[str]:
    """Return the interfaces that /proc/net/dev lists."""
    return {line.partition(":")[0].strip() for line in text.splitlines() if ":" in line}


async def test_f44_its_networks_number_is_ours_until_all_in_it_is_ended(
    place: Path, bindir: Path, template: Path | None
) -> None:
    """The kernel gives a free number to the next one, which may be another run's server."""

    def held() -> set[str]:
        opened = {path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
        return {f"{path}" for path in opened if f"{path}".startswith("net:[")}

    before = held()
    async with cluster(bindir, root=place, template=template, isolated=True) as it:
        if not it.isolated:
            pytest.skip("this system gives no network of its own")
        own = network_of(it.pid)
        assert held() - before == {own}
        os.kill(it.pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        assert held() - before == {own}, "also when the server has ended by itself"
    assert held() == before


async def test_f44_an_isolated_server_has_no_network(running_one: Cluster) -> None:
    it = running_one
    connection = await it.connect()
    await connection.execute("CREATE TABLE seen (line text); COPY seen FROM PROGRAM 'cat /proc/net/dev'")
    text = await connection.fetchval("SELECT string_agg(line, E'\\n') FROM seen")
    await connection.close()
    if not it.isolated:
        pytest.skip("this system has no network namespaces for us")
    assert interfaces(text) == {"lo"}
    assert folders.network_of(it.pid) != folders.network_of(os.getpid())
    # A client can have the same, and gets in.
    socket: list[str | Path] = ["-h", it.socket, "-U", it.user, "-d", "postgres"]
    script = ["-c", "\\! cat /proc/net/dev >&2", "-c", "SELECT 1"]
    async with process.spawn(
        [it.bindir / "psql", "-X", *socket, *script],
        env={"PATH": "/usr/bin:/bin"},
        account=it.account,
        network=it.network,
    ) as child:
        assert await child.wait() == 0
    assert interfaces("\n".join(child.stderr)) == {"lo"}


async def test_f44_where_nothing_isolates_it_says_so(
    place: Path, bindir: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = process._util_linux
    monkeypatch.setattr(process, "_util_linux", lambda name: None if name == "unshare" else found(name))
    async with cluster(bindir, root=place, template=template, isolated=True) as it:
        assert not it.isolated
        assert await value(it, "SELECT 1") == 1


async def test_f44_where_the_system_only_pretends_it_says_so(
    place: Path, elsewhere: Path, bindir: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is taken for a program of the dump's only because it is in our own network."""
    pretending = elsewhere / "bin" / "unshare"
    pretending.parent.mkdir()
    pretending.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    pretending.chmod(0o755)
    found = process._util_linux
    monkeypatch.setattr(
        process, "_util_linux", lambda name: f"{pretending}" if name == "unshare" else found(name)
    )
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    async with process.spawn(["/bin/sleep", "600"], env={}, account=account) as bystander:
        async with cluster(bindir, root=place, template=template, isolated=True) as it:
            assert not it.isolated
            assert await value(it, "SELECT 1") == 1
        assert bystander.process.returncode is None
        assert alive(bystander.process.pid)


# Settings and sizes


@pytest.mark.parametrize("major", [15, 16, 17, 18])
async def test_f44_every_version_takes_the_settings(place: Path, major: int) -> None:
    found = bindir_of(major)
    if found is None:
        pytest.skip(f"PostgreSQL {major} is not installed")
    async with cluster(found, root=place, settings=SCRATCH) as it:
        connection = await it.connect()
        rows = await connection.fetch("SELECT name, current_setting(name) FROM pg_settings")
        known: dict[str, str] = {row[0]: row[1] for row in rows}
        assert {name: known[name] for name in SCRATCH if name in known} == {
            name: wanted for name, wanted in SCRATCH.items() if name in known
        }
        assert known["allow_in_place_tablespaces"] == known["restart_after_crash"] == "on"
        await connection.execute("CREATE TABLESPACE inside LOCATION ''")
        await connection.execute("CREATE DATABASE here TABLESPACE inside")
        oid = await connection.fetchval("SELECT oid FROM pg_database WHERE datname = 'here'")
        await connection.close()
        assert it.usage_of(oid) > 1_000_000


async def test_f44_a_dump_of_many_tables_fits_into_one_transaction(running_one: Cluster) -> None:
    # The locks of 3,147 tables with their indexes and sequences did not find room by default.
    locks = "SELECT count(pg_advisory_xact_lock(i)) FROM generate_series(1, 20000) i"
    assert await value(running_one, locks) == 20000


def measured(tree: Path) -> int:
    said = subprocess.run(["du", "-sB1", tree], capture_output=True, check=True).stdout
    return int(said.split()[0])


async def test_f44_its_size_is_what_lies_on_disk(running_one: Cluster) -> None:
    it = running_one
    connection = await it.connect()
    await connection.execute("CREATE DATABASE other")
    await connection.execute("CHECKPOINT")
    oids = {row[0]: row[1] for row in await connection.fetch("SELECT datname, oid FROM pg_database")}
    before, small, other = it.usage(), it.usage_of(oids["postgres"]), it.usage_of(oids["other"])
    await connection.execute(
        "CREATE TABLE big AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 20000)"
    )
    await connection.execute("CHECKPOINT")
    assert it.usage_of(oids["postgres"]) - small > 20_000_000
    assert it.usage() - before > 20_000_000
    assert it.usage_of(oids["other"]) == other
    assert it.usage_of(4_000_000_000) == 0
    assert abs(measured(it.datadir) - folders.usage(it.datadir)) < 1_000_000
    await connection.close()
