"""Places among the running dumps: how many there are, who goes next, and that none is ever lost."""

import asyncio
import random
from collections import Counter

import pytest

from asyncbackup.model import Server
from asyncbackup.slots import Place, Slots

ONE, TWO = Server("one", 5432), Server("two", 5432)


async def settle() -> None:
    """Let every task go on as far as it gets."""
    for _ in range(20):
        await asyncio.sleep(0)


class Guest:
    """A task that holds a place until it is told to go."""

    def __init__(self, slots: Slots, server: Server) -> None:
        self.slots, self.server = slots, server
        self.go = asyncio.Event()
        self.place: Place | None = None
        self.task = asyncio.create_task(self.stay())

    async def stay(self) -> None:
        async with self.slots.place(self.server) as self.place:
            await self.go.wait()

    @property
    def inside(self) -> bool:
        return self.place is not None and self.place.dumping


async def guests(slots: Slots, *servers: Server) -> list[Guest]:
    made = [Guest(slots, server) for server in servers]
    await settle()
    return made


async def leave(*gone: Guest) -> None:
    for guest in gone:
        guest.go.set()
    await settle()


async def test_so_many_in_all_and_so_many_on_each_server() -> None:
    made = await guests(Slots(3, 2, 8), ONE, ONE, ONE, TWO, TWO)
    assert [guest.inside for guest in made] == [True, True, False, True, False]
    await leave(made[0])
    assert [guest.inside for guest in made[1:]] == [True, True, True, False]
    await leave(*made)
    assert all(guest.task.done() for guest in made)


async def test_a_pause_lets_others_go_and_who_comes_back_goes_first() -> None:
    first, second, third = made = await guests(Slots(1, 1, 8), ONE, ONE, ONE)
    assert first.place is not None
    first.place.pause(on_server=True)
    await settle()
    assert second.inside
    back = asyncio.create_task(first.place.take())
    await settle()
    assert not back.done()
    await leave(second)
    assert back.done()
    assert (first.inside, third.inside) == (True, False)
    await leave(*made)


async def test_a_server_that_takes_nobody_in_keeps_the_place_there() -> None:
    first, same, other = made = await guests(Slots(1, 1, 8), ONE, ONE, TWO)
    assert first.place is not None
    first.place.pause(on_server=False)
    await settle()
    assert (same.inside, other.inside) == (False, True)
    await leave(*made[1:])
    assert not same.inside
    await first.place.take()
    await leave(first)
    assert same.task.done()


async def test_few_are_away_at_a_time() -> None:
    slots = Slots(40, 40, 8)
    made = await guests(slots, *[ONE] * 40)
    for guest in made:
        assert guest.place is not None
        guest.place.pause(on_server=True)
    assert sum(not guest.inside for guest in made) == slots.away == 16
    await asyncio.gather(*(guest.place.take() for guest in made if guest.place))
    assert slots.away == 0
    await leave(*made)


async def test_publishing_takes_no_place_and_few_publish_at_a_time() -> None:
    slots = Slots(1, 1, 1)
    first, second, third = await guests(slots, ONE, ONE, ONE)
    assert first.place is not None
    await first.place.hand_over()
    await settle()
    assert second.place is not None
    assert (first.inside, second.inside) == (False, True)
    handing = asyncio.create_task(second.place.hand_over())
    await settle()
    assert (handing.done(), third.inside) == (False, False)
    await leave(first)
    assert (handing.done(), third.inside) == (True, True)
    await leave(second, third)
    assert (slots.free, slots.publishing.locked()) == (1, False)


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost_whoever_is_cancelled_whenever(seed: int) -> None:
    chance = random.Random(seed)
    slots = Slots(4, 3, 2)
    most, now = Counter[Server | None](), Counter[Server | None]()

    async def dump(place: Place) -> None:
        now.update((None, place.server))
        for key in (None, place.server):
            most[key] = max(most[key], now[key])
        try:
            await asyncio.sleep(chance.random() / 500)
        finally:
            now.subtract((None, place.server))

    async def journey(server: Server) -> None:
        async with slots.place(server) as place:
            await dump(place)
            for _ in range(chance.randrange(3)):
                place.pause(on_server=chance.random() < 0.5)
                await asyncio.sleep(chance.random() / 500)
                await place.take()
                await dump(place)
            await place.hand_over()
            await asyncio.sleep(chance.random() / 500)

    tasks = [asyncio.create_task(journey(chance.choice((ONE, TWO)))) for _ in range(60)]
    for task in chance.sample(tasks, 30):
        await asyncio.sleep(chance.random() / 1000)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (slots.free, slots.away, list(slots.queue)) == (4, 0, [])
    assert set(slots.on_server.values()) == {0}
    assert not slots.publishing.locked()
    assert most[None] <= 4
    assert max(most[ONE], most[TWO]) <= 3
