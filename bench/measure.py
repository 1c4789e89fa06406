"""Run a command and say what it cost: us, the server, and everyone else on the machine.

All of it is read from the kernel's own accounts (Linux). A command's CPU is that of the process and
of every descendant that was waited for, by wait4(2). The process alone, without its children, is read
from /proc/<pid>/stat while it is a zombie: it costs nothing any more, and its account still stands.
"""

import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_INTERVAL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One timed run; seconds and bytes.

    `cpu` is the client side's, children included; `own_cpu` and `own_rss` are of the process alone.
    `tree_rss` is the largest sum over the process and its descendants, sampled, shared pages counted
    each time; `memory` is the same without program files, and with the shared memory of a server among
    them counted once. `server_cpu` is None for a server that is not ours; `other_cpu` is what everything else
    on this machine used meanwhile (with such a server on the same machine: that, too).
    """

    wall: float
    cpu: float
    own_cpu: float
    server_cpu: float | None
    other_cpu: float
    own_rss: int
    tree_rss: int
    memory: int
    output: int


class CommandFailedError(Exception):
    """A contender failed; what it wrote is in the message."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of some runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Sum up at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 1, scale: float = 1) -> str:
        """Return `median (low-high)`."""
        low, high = (f"{value / scale:,.{digits}f}" for value in (self.low, self.high))
        middle = f"{self.median / scale:,.{digits}f}"
        return middle if low == high else f"{middle} ({low}-{high})"


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdin: Path | None,
    log: Path,
    output: Path,
    server_pid: int = 0,
    settled: Callable[[], object] = lambda: None,
) -> Run:
    """Run a command to its end and measure it; `output` is the folder whose size is taken.

    `settled` waits until the server's work is in its account, where that comes after the command's end.
    """
    os.sync()  # what the one before has left to write is not this one's burden
    with (stdin or Path(os.devnull)).open("rb") as source, log.open("wb") as sink:
        machine, server, ours = _machine_cpu(), _server_cpu(server_pid), time.process_time()
        start = time.monotonic()
        process = subprocess.Popen(
            list(command),
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=sink,
            env=dict(environment),
            start_new_session=True,
        )
        watch = _Watch(process.pid)
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        finally:
            watch.stop()
    wall = time.monotonic() - start
    own_cpu = _own_cpu(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = log.read_text(errors="replace")[-3000:]
        raise CommandFailedError(f"{' '.join(command)}: exit {process.returncode}\n{tail}")
    cpu = usage.ru_utime + usage.ru_stime
    settled()
    server_cpu = _server_cpu(server_pid) - server if server_pid else None
    accounted = cpu + (server_cpu or 0) + time.process_time() - ours
    return Run(
        wall=wall,
        cpu=cpu,
        own_cpu=own_cpu,
        server_cpu=server_cpu,
        other_cpu=max(0.0, _machine_cpu() - machine - accounted),
        own_rss=watch.own,
        tree_rss=watch.tree,
        memory=watch.memory,
        output=sum(path.stat().st_size for path in output.rglob("*") if path.is_file()),
    )


class _Watch:
    """Looks at a process's memory, and at that of its descendants, until told to stop."""

    def __init__(self, pid: int) -> None:
        self.own = 0
        self.tree = 0
        self.memory = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_INTERVAL):
            family = [_memory(pid) for pid in _family(self._pid)]
            self.own = max(self.own, family[0].get("VmHWM", 0))
            self.tree = max(self.tree, sum(one.get("VmRSS", 0) for one in family))
            private = sum(one.get("RssAnon", 0) for one in family)
            self.memory = max(self.memory, private + max(one.get("RssShmem", 0) for one in family))


def _read(path: str) -> str:
    """Return a file of /proc, or nothing when its process has gone."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _memory(pid: int) -> dict[str, int]:
    """Return the sizes that proc(5) tells of a process's memory, in bytes; none when it has ended."""
    lines = (line.split() for line in _read(f"/proc/{pid}/status").splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def _family(pid: int) -> list[int]:
    """Return a process and its descendants; children are listed by the thread that started them."""
    members = [pid]
    for member in members:
        try:
            threads = list(Path(f"/proc/{member}/task").iterdir())
        except OSError:  # it has ended, this moment
            continue
        for thread in threads:
            members += [int(c) for c in _read(f"{thread}/children").split()]
    return members


def _times(pid: int) -> list[float]:
    """Return utime, stime, cutime, cstime in seconds (proc(5), fields 14 to 17)."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return [int(field) / _TICK for field in fields[11:15]] or [0.0] * 4


def _own_cpu(pid: int) -> float:
    return sum(_times(pid)[:2])


def _server_cpu(pid: int) -> float:
    """Return the CPU time of a server: its sessions that have ended, and its children that live."""
    if not pid:
        return 0.0
    return sum(_times(pid)) + sum(_own_cpu(child) for child in _family(pid)[1:])


def _machine_cpu() -> float:
    """Return the busy seconds of all cores, time stolen by the hypervisor included (proc(5), cpu)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(field) for field in _read("/proc/stat").splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICK
