"""An interrupt of an FTP connection is never lost, whenever it comes."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from tests.places import at_ftps
from tests.targets import fetch, store


async def test_nothing_waits_in_a_way_that_loses_interrupts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until Python 3.12, asyncio.wait_for returns where its work is done just when it is cancelled."""
    limits: list[object] = []
    wait_for = asyncio.wait_for

    async def noticed(awaitable: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - asyncio's own
        limits.append(timeout)
        return await wait_for(awaitable, timeout)

    monkeypatch.setattr(asyncio, "wait_for", noticed)
    async with at_ftps(tmp_path) as place:
        await store(place.target, "name", b"content")
        assert await fetch(place.target, "name") == b"content"
    assert limits, "aioftp does use it"
    assert set(limits) == {None}


# asyncio itself drops a socket that was connected in the moment of the interrupt.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_an_interrupt_ends_it_whenever_it_comes(tmp_path: Path) -> None:
    async with at_ftps(tmp_path) as place:
        await store(place.target, "name", b"content")
        for milliseconds in range(0, 60, 2):

            async def for_ever() -> None:
                while True:
                    await fetch(place.target, "name")

            task = asyncio.create_task(for_ever())
            await asyncio.sleep(milliseconds / 1000)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=20)
            assert done, f"an interrupt after {milliseconds} ms was lost"
            assert task.cancelled()
    gc.collect()
