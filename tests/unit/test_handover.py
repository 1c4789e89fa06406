"""The way from a thread to the event loop: in order, bounded, and it can be closed."""

import asyncio
import threading

import pytest

from asyncbackup.postgres.handover import Handover, HandoverClosedError


async def test_items_come_in_order_and_then_the_end() -> None:
    handover: Handover[int] = Handover(1000)

    def produce() -> None:
        for number in range(100):
            handover.put(number, 1)
        handover.end()

    producing = asyncio.get_running_loop().run_in_executor(None, produce)
    got = []
    while (item := await handover.get()) is not None:
        got.append(item)
    assert got == list(range(100))
    assert await handover.get() is None
    await producing


async def test_the_thread_waits_for_room() -> None:
    handover: Handover[int] = Handover(10)
    sent: list[int] = []

    def produce() -> None:
        for number in range(6):
            handover.put(number, 4)
            sent.append(number)
        handover.end()

    producing = asyncio.get_running_loop().run_in_executor(None, produce)
    for number in range(6):
        assert await handover.get() == number
        assert len(sent) <= number + 2  # two have room at once, and this one has not been released
        handover.release(4)
    assert await handover.get() is None
    await producing


async def test_what_is_larger_than_the_room_passes_alone() -> None:
    handover: Handover[str] = Handover(10)
    second = threading.Event()

    def produce() -> None:
        handover.put("large", 500)
        handover.put("small", 1)
        second.set()
        handover.end()

    producing = asyncio.get_running_loop().run_in_executor(None, produce)
    assert await handover.get() == "large"
    assert not second.is_set()
    handover.release(500)
    assert await handover.get() == "small"
    await producing


async def test_a_thread_that_waits_ends_when_nobody_takes_any_more() -> None:
    handover: Handover[int] = Handover(10)

    def produce() -> None:
        for number in range(1000):
            handover.put(number, 10)

    producing = asyncio.get_running_loop().run_in_executor(None, produce)
    assert await handover.get() == 0
    handover.close()
    with pytest.raises(HandoverClosedError):
        await producing
