"""The liars lie as they say, so that what is tested on them is tested."""

import asyncio
from collections.abc import Callable

import pytest

from asyncbackup.errors import TargetError
from tests.targets import (
    LIARS,
    Breaking,
    Complaining,
    Gone,
    Held,
    Honest,
    Idle,
    Late,
    Memory,
    Short,
    fetch,
    store,
    upload,
)

NAME = "name"
DATA = b"0123456789"


@pytest.fixture
def memory() -> Memory:
    return Memory(hashes=True, resumes=True)


@pytest.mark.parametrize("liar", LIARS.values(), ids=LIARS)
async def test_who_has_lied_often_enough_is_honest(memory: Memory, liar: Callable[..., Honest]) -> None:
    honest = liar(memory, times=0)
    await store(honest, NAME, DATA)
    assert await fetch(honest, NAME) == DATA
    async with honest.connect() as remote:
        assert (await remote.size(NAME), await remote.list()) == (10, {NAME: 10})
        await remote.delete(NAME)
    assert memory.files == {}


async def test_one_stores_less_than_it_was_given(memory: Memory) -> None:
    await store(Short(memory), NAME, DATA)
    assert memory.files == {NAME: DATA[:-1]}


async def test_one_stores_and_deletes_and_says_that_it_failed(memory: Memory) -> None:
    liar = Complaining(memory)
    with pytest.raises(TargetError) as caught:
        await store(liar, NAME, DATA)
    assert caught.value.retryable
    assert memory.files == {NAME: DATA}
    async with liar.connect() as remote:
        with pytest.raises(TargetError):
            await remote.delete(NAME)
    assert memory.files == {}


async def test_one_does_nothing_and_says_that_all_is_well(memory: Memory) -> None:
    await store(Idle(memory), NAME, DATA)
    assert memory.files == {}
    await store(memory, NAME, DATA)
    async with Idle(memory).connect() as remote:
        await remote.delete(NAME)
    assert memory.files == {NAME: DATA}


async def test_one_lists_what_was_there_before(memory: Memory) -> None:
    liar = Late(memory)
    async with liar.connect() as remote:
        assert await remote.list() == {}
        await remote.put(upload(NAME, DATA))
        assert (await remote.list(), await remote.size(NAME)) == ({}, 10)
        liar.catch_up()
        assert await remote.list() == {NAME: 10}


@pytest.mark.parametrize("after", [0, 4, 10])
async def test_one_breaks_off_either_way(memory: Memory, after: int) -> None:
    liar = Breaking(memory, after=after, times=1)
    with pytest.raises(TargetError) as caught:
        await store(liar, NAME, DATA)
    assert caught.value.retryable
    assert memory.files == {}
    assert memory.parts == {caught.value.part: DATA[:after]}
    async with liar.connect() as remote:
        await remote.put(upload(NAME, DATA), caught.value.part)
    assert (memory.files, memory.parts) == ({NAME: DATA}, {})
    found = b""

    async def read() -> None:
        nonlocal found
        async with Breaking(memory, after=after).connect() as remote, remote.get(NAME) as blocks:
            async for block in blocks:
                found += block

    with pytest.raises(TargetError):
        await read()
    assert found == DATA[:after]


async def test_one_that_cannot_go_on_leaves_no_part() -> None:
    memory = Memory()
    with pytest.raises(TargetError) as caught:
        await store(Breaking(memory, after=4), NAME, DATA)
    assert (caught.value.part, memory.files, memory.parts) == ("", {}, {})


async def test_one_goes_away_and_comes_back(memory: Memory) -> None:
    liar = Gone(memory, answers=2)
    await store(liar, NAME, DATA)
    with pytest.raises(TargetError):
        await fetch(liar, NAME)
    liar.back()
    assert await fetch(liar, NAME) == DATA


async def test_one_holds_every_upload_in_its_middle(memory: Memory) -> None:
    liar = Held(memory)
    task = asyncio.create_task(store(liar, NAME, DATA))
    await liar.reached.wait()
    assert memory.files == {}
    liar.release.set()
    await task
    assert memory.files == {NAME: DATA}
