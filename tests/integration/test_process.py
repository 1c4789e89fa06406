"""Children: as whom they run, what they may reach, and how they end."""

import asyncio
import os
import pwd
import signal
import subprocess
import sys
from io import FileIO
from pathlib import Path

import pytest

from asyncbackup import process
from asyncbackup.errors import ClientError
from asyncbackup.process import Network, spawn, without_network
from tests.processes import alive, gone

ENV = {"PATH": "/usr/bin:/bin"}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
with_util_linux = pytest.mark.skipif(
    process._util_linux("setpriv") is None, reason="util-linux's setpriv is not installed"
)


async def said(script: str, **options: object) -> list[str]:
    async with spawn(["/bin/sh", "-c", f"({script}) >&2"], env=ENV, **options) as child:  # type: ignore[arg-type]
        assert await child.wait() == 0
    return child.stderr


async def test_it_reads_what_we_write(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("one\ntwo\n")
    with FileIO(tmp_path / "text") as source:
        assert await said("cat", stdin=source) == ["one", "two"]
    assert await said("cat") == []


@as_root
@pytest.mark.parametrize("with_setpriv", [True, False])
async def test_it_runs_as_somebody_else_with_nothing_of_ours(
    monkeypatch: pytest.MonkeyPatch, *, with_setpriv: bool
) -> None:
    if not with_setpriv:
        monkeypatch.setattr(process, "_util_linux", lambda name: None)
    nobody = pwd.getpwnam("nobody")
    found = await said("id -u; id -g; id -G; pwd; grep CapEff /proc/self/status", account=nobody)
    uid, gid = f"{nobody.pw_uid}", f"{nobody.pw_gid}"
    assert found[:4] == [uid, gid, gid, "/"]
    assert int(found[4].split()[1], 16) == 0


@with_util_linux
async def test_no_setuid_program_gives_it_more() -> None:
    assert "NoNewPrivs:\t1" in await said("cat /proc/self/status")


@with_util_linux
@pytest.mark.parametrize("owner", [None, pytest.param("nobody", marks=as_root)])
async def test_it_can_be_kept_off_the_network(owner: str | None) -> None:
    account = pwd.getpwnam(owner) if owner else None
    network = await without_network(account, ENV)
    if network is Network.OURS:
        pytest.skip("this system has no network namespaces for us")
    interfaces = await said("cat /proc/net/dev; id -u", account=account, network=network)
    assert [line.split(":")[0].strip() for line in interfaces if ":" in line] == ["lo"]
    assert interfaces[-1] == f"{account.pw_uid if account else os.geteuid()}"


async def test_without_the_means_it_does_not_run_with_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_util_linux", lambda name: None)
    assert await without_network(None, ENV) is Network.OURS
    with pytest.raises(ClientError, match="off the network"):
        await said("true", network=Network.NONE)


@pytest.mark.parametrize(
    ("program", "why"), [("/nowhere", "No such file"), ("/etc/passwd", "Permission denied")]
)
async def test_what_cannot_be_started_says_why(program: str, why: str) -> None:
    with pytest.raises(ClientError, match=f"cannot start {program}: {why}"):
        async with spawn([program], env=ENV):
            pass


async def test_one_that_is_deaf_is_killed() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, file=__import__('sys').stderr, flush=True); time.sleep(600)"
    stop = ((signal.SIGTERM, 0.1), (signal.SIGKILL, 60.0))
    async with spawn([sys.executable, "-c", deaf], env=ENV, stop=stop) as child:
        for _ in range(3000):
            if child.stderr:
                break
            await asyncio.sleep(0.01)
    assert child.process.returncode == -signal.SIGKILL


@with_util_linux
@pytest.mark.parametrize("network", [Network.OURS, None])
def test_it_ends_when_we_are_killed(network: Network | None) -> None:
    """Whatever stands between: the kernel forgets the wish when privileges change afterwards."""
    wanted = "Network.OURS" if network else "await without_network(account, env)"
    script = f"""
import asyncio, os, pwd
from asyncbackup.process import Network, spawn, without_network
async def main():
    env = {{"PATH": "/usr/bin:/bin"}}
    account = None if os.geteuid() else pwd.getpwnam("nobody")
    async with spawn(["/bin/sleep", "600"], env=env, account=account, network={wanted}) as child:
        while open(f"/proc/{{child.process.pid}}/comm").read().strip() != "sleep":
            await asyncio.sleep(0.01)
        print(child.process.pid, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert gone(lambda: alive(pid))
