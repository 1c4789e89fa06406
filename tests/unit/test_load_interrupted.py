"""A load that is told to end while the thread that feeds psql is at work."""

import asyncio
import gzip
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest

from asyncbackup.postgres.load import Door, load
from asyncbackup.stream import Progress

DUMP = Path(__file__).parents[1] / "data" / "dumps" / "pg15.sql"
PATIENCE = 30


class Held(FileIO):
    """A file on slow storage: what it is asked for comes once it is let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked, self.let_go = threading.Event(), threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.asked.set()
        assert self.let_go.wait(PATIENCE)
        return super().read(size)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as found:
        yield found


@pytest.fixture
def psql(tmp_path: Path) -> Path:
    """A program that says who it is, and takes whatever it gets."""
    path = tmp_path / "psql"
    path.write_text(
        f'#!/bin/sh\necho $$ > "{tmp_path}/new" && mv "{tmp_path}/new" "{tmp_path}/pid"\nexec cat\n'
    )
    path.chmod(0o755)
    return path


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not done():  # noqa: ASYNC110 - nobody tells of a process's end
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("times", [1, 2])
def test_nobody_closes_the_pipe_under_the_hands_of_the_thread(
    psql: Path, executor: Executor, tmp_path: Path, times: int
) -> None:
    file = tmp_path / "backup.sql.gz"
    file.write_bytes(gzip.compress(DUMP.read_bytes()))
    before = len(list(Path("/proc/self/fd").iterdir()))

    async def interrupted(source: Held) -> None:
        loading = asyncio.ensure_future(
            load(
                psql,
                Door(conninfo="", env=os.environ),
                source,
                subject="h:1/db",
                one_transaction=True,
                progress=Progress(),
                executor=executor,
            )
        )
        try:
            pid = psql.with_name("pid")
            await until(lambda: source.asked.is_set() and pid.exists())
            for _ in range(times):
                loading.cancel()
                await asyncio.sleep(0)
            await until(lambda: not Path("/proc", pid.read_text().strip()).exists())
            # The thread will find out at its next write, and goes on for as long as its file takes.
            await asyncio.wait([loading], timeout=0.3)
            assert not loading.done()
        finally:
            source.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await loading

    with Held(file) as source:
        asyncio.run(interrupted(source))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
