"""What the kernel tells about processes, and a place whose emptiness at the end is part of a test."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def processes_naming(text: str) -> list[str]:
    """Return the command lines of living processes that name a path."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            lines.append(line)
    return lines


def status(pid: int) -> dict[str, list[str]]:
    """Return what the kernel says about a process, by the names of proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return status(pid)["State"][0] != "Z"
    except OSError:
        return False


def gone(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Wait until something is no more."""
    end = time.monotonic() + seconds
    while condition() and time.monotonic() < end:
        time.sleep(0.02)
    return not condition()


@contextmanager
def empty_place() -> Iterator[Path]:
    """Make a folder that an unprivileged user may pass through, as pytest's own may not be; empty at the end."""
    folder = Path(tempfile.mkdtemp(prefix="asyncbackup-test-"))
    folder.chmod(0o755)
    try:
        yield folder
        assert list(folder.iterdir()) == []
        assert processes_naming(f"{folder}") == []
    finally:
        shutil.rmtree(folder)
