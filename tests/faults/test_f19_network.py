"""A network that is not what it should be: addresses that are dead (F19), a line that is thin (F20)."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.conftest import OwnServer
from tests.invariants import Result, Site
from tests.servers import Database

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has namespaces to do this in")


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Make [::1]:port an address that answers nothing: its queue is full, and further packets are dropped."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(
                socket.create_server(("::1", port), family=socket.AF_INET6, backlog=0)
            )
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        for _ in range(8):
            client = stack.enter_context(socket.socket(socket.AF_INET6))
            client.settimeout(0.2)
            with suppress(TimeoutError):
                client.connect(server.getsockname())
                continue
            yield
            return
        pytest.skip("a full queue does not stop connections here")


def run_in(site: Site, inside: list[str], **variables: str) -> Result:
    command = [*inside, site.cli.path("asyncbackup"), "backup", "--json"]
    environment = site.cli.environment({**site.env, **variables})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return Result(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


@root
@pytest.mark.parametrize("dead", ["silent", "closed"])
def test_f19_the_first_address_of_a_name_is_dead(
    site: Site, small: Database, tmp_path: Path, dead: str
) -> None:
    """pg_dump gives each address CONNECT_TIMEOUT; what is asked before it must find the living one, too."""
    port = small.server.cluster.port
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 fleet\n127.0.0.1 fleet\n")
    script = f'mount --bind {hosts} /etc/hosts || exit 77; exec "$@"'
    inside = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("another hosts file cannot be put in place here")
    site.use(small.server, CONNECT_TIMEOUT="2s", POSTGRESQL_USER=small.server.cluster.user)
    site.env["POSTGRESQL_PASSWORD"] = small.server.cluster.password.reveal()
    site.configure(f"fleet:{port}/{small.name}")
    with ExitStack() as stack:
        if dead == "silent":
            stack.enter_context(black_hole(port))
        done = run_in(site, inside)
    assert done.returncode == 0, done.stderr
    assert done.only["rows"] == 10
    site.check(done)


@pytest.fixture
def thin(own: OwnServer) -> Iterator[OwnServer]:
    """A server behind a line of 4 Mbit/s whose short queue drops what does not fit, as thin lines do."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("needs root, ip and tc")
    name = f"thin-{os.getpid()}"
    own.inside = ("ip", "netns", "exec", name)
    with ExitStack() as stack:
        for command in (
            f"ip netns add {name}",
            "ip link set lo mtu 1500 up",
            "tc qdisc add dev lo root tbf rate 4mbit burst 5kb limit 10kb",
        ):
            words = command.split() if "netns" in command else [*own.inside, *command.split()]
            made = subprocess.run(words, capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"no thin line can be made here: {made.stderr.strip()}")
            if "netns" in command:
                stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
        own.stop(2)
        own.start()
        stack.callback(own.stop, 2)
        yield own


def dropped(server: OwnServer) -> int:
    done = subprocess.run(
        [*server.inside, "tc", "-s", "qdisc", "show", "dev", "lo"], capture_output=True, text=True, check=True
    )
    return int(done.stdout.partition("dropped ")[2].split(",")[0])


def test_f20_a_thin_line_that_loses_packets(site: Site, thin: OwnServer) -> None:
    thin.postgres.psql("postgres", "CREATE DATABASE far")
    made = Database(thin.postgres, "far")
    made.psql("CREATE TABLE t AS SELECT md5(i::text) AS t FROM generate_series(1, 20000) i")
    site.use(thin.postgres).configure(made)
    done = run_in(site, list(thin.inside), DUMP_STALL_TIMEOUT="10s")
    assert done.returncode == 0, done.stderr
    assert done.only["rows"] == 20_000
    assert dropped(thin) > 0, "no packet was lost: the line was not thin"
    assert done.named("backup.quiet") == []
    site.check(done)
