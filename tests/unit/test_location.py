"""What a run knows of a location: its listing, and whether it is worth asking."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from asyncbackup.errors import TargetError
from asyncbackup.offsite.location import Location
from asyncbackup.targets.target import Remote
from tests.targets import Honest, Memory, _Through


@dataclass
class Moody(Honest):
    """Lets in, and lists, or not, as it is told; counts who comes."""

    knocks: int = 0
    lists: int = 0
    closed: bool = False
    dumb: bool = False
    slow: asyncio.Event | None = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Remote]:
        self.knocks += 1
        if self.closed:
            raise TargetError("530 Login incorrect", hint="check FTP_PASSWORD", retryable=True)
        async with super().connect() as remote:
            yield remote

    def around(self, remote: Remote) -> Remote:
        it = self

        class Listing(_Through):
            async def list(self) -> Mapping[str, int]:
                it.lists += 1
                if it.slow is not None:
                    await it.slow.wait()
                if it.dumb:
                    raise it.broken("no end of the listing")
                return await super().list()

        return Listing(remote)


@dataclass
class Bench:
    """A location, its target and its clock."""

    memory: Memory = field(default_factory=Memory)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.target = Moody(self.memory)
        self.location = Location(self.target, lambda: self.now)

    async def knock(self, *, again: bool = False) -> str:
        try:
            async with self.location.connect(again=again):
                return ""
        except TargetError as error:
            return error.message

    async def store(self, name: str, *, works: bool, again: bool = False, retryable: bool = True) -> str:
        try:
            async with self.location.storing(name, again=again):
                if not works:
                    raise TargetError(f"cannot store {name}", retryable=retryable)  # noqa: TRY301 - within it
        except TargetError as error:
            return error.message
        self.location.stored(name, 1)
        return ""


async def test_who_was_refused_is_not_followed_by_others_for_a_minute() -> None:
    bench = Bench()
    bench.target.closed = True
    assert [await bench.knock() for _ in range(5)] == ["530 Login incorrect"] * 5
    assert bench.target.knocks == 1
    assert await bench.knock(again=True) == "530 Login incorrect"
    assert bench.target.knocks == 2
    bench.now = 59.9
    assert await bench.knock()
    assert bench.target.knocks == 2
    bench.now, bench.target.closed = 61.0, False
    assert await bench.knock() == ""


async def test_what_is_passed_on_keeps_its_hint_and_is_not_tried_again() -> None:
    bench = Bench()
    bench.target.closed = True
    await bench.knock()
    with pytest.raises(TargetError) as caught:
        async with bench.location.connect():
            pass
    assert caught.value.hint == "check FTP_PASSWORD"
    assert not caught.value.retryable


async def test_once_somebody_got_in_all_may() -> None:
    bench = Bench()
    bench.target.closed = True
    await bench.knock()
    bench.target.closed = False
    assert await bench.knock()
    assert await bench.knock(again=True) == ""
    assert await bench.knock() == ""


async def test_what_goes_wrong_within_closes_it_to_nobody() -> None:
    bench = Bench()
    with suppress(TargetError):
        async with bench.location.connect():
            raise TargetError("552 quota exceeded")
    assert await bench.knock() == ""


# --- the listing


async def test_it_is_asked_for_once_however_many_ask() -> None:
    bench = Bench(Memory({"a": b"12"}))
    bench.target.slow = asyncio.Event()
    asking = [asyncio.create_task(bench.location.listing()) for _ in range(10)]
    for _ in range(5):
        await asyncio.sleep(0)
    bench.target.slow.set()
    assert [dict(found) for found in await asyncio.gather(*asking)] == [{"a": 2}] * 10
    assert bench.target.lists == 1


async def test_it_is_kept_up_to_date() -> None:
    bench = Bench(Memory({"a": b"12", "b": b"1"}))
    await bench.location.listing()
    bench.location.stored("c", 7)
    bench.location.stored("a", 3)
    bench.location.deleted("b")
    bench.location.deleted("never there")
    assert await bench.location.listing() == {"a": 3, "c": 7}


async def test_what_happened_before_it_was_asked_for_counts_more_than_what_it_says() -> None:
    bench = Bench(Memory({"removed": b"", "old": b"1"}))  # lagging behind
    bench.location.stored("new", 7)
    bench.location.deleted("removed")
    bench.location.stored("again", 1)
    bench.location.deleted("again")
    bench.location.deleted("old")
    bench.location.stored("old", 2)
    assert await bench.location.listing() == {"new": 7, "old": 2}


async def test_what_happens_while_it_is_asked_for_counts_too() -> None:
    bench = Bench(Memory({"removed": b""}))
    bench.target.slow = asyncio.Event()
    asking = asyncio.create_task(bench.location.listing())
    for _ in range(5):
        await asyncio.sleep(0)
    bench.location.stored("new", 7)
    bench.location.deleted("removed")
    bench.target.slow.set()
    assert await asking == {"new": 7}


async def test_a_listing_that_fails_is_not_asked_for_by_each_in_turn() -> None:
    bench = Bench()
    bench.target.dumb = True
    for _ in range(5):
        with pytest.raises(TargetError, match="no end of the listing"):
            await bench.location.listing()
        assert await bench.knock() == "", "there is nothing wrong with the rest of it"
    assert bench.target.lists == 1
    bench.target.dumb, bench.now = False, 61.0
    assert await bench.location.listing() == {}


async def test_whoever_gives_up_asking_leaves_it_to_the_next() -> None:
    bench = Bench(Memory({"a": b""}))
    bench.target.slow = asyncio.Event()
    first, second = (asyncio.create_task(bench.location.listing()) for _ in range(2))
    for _ in range(5):
        await asyncio.sleep(0)
    first.cancel()
    bench.target.slow.set()
    assert await second == {"a": 0}
    assert first.cancelled()


# --- storing


async def test_tries_of_several_files_that_fail_in_a_row_close_it() -> None:
    bench = Bench()
    for number in range(4):
        assert await bench.store(f"{number}", works=False) == f"cannot store {number}"
    knocks = bench.target.knocks
    assert await bench.store("next", works=True) == "cannot store 3"
    assert bench.target.knocks == knocks
    assert await bench.knock() == "", "only for storing"
    assert await bench.store("3", works=False, again=True) == "cannot store 3"
    assert await bench.store("3", works=True, again=True) == ""
    assert await bench.store("next", works=True) == "", "it stores again"


async def test_after_a_minute_another_may_try() -> None:
    bench = Bench()
    for number in range(4):
        await bench.store(f"{number}", works=False)
    bench.now = 61.0
    assert await bench.store("next", works=True) == ""


@pytest.mark.parametrize(
    ("names", "retryable", "works"),
    [
        (["a"] * 20, True, False),  # the file's own fault
        (["a", "b", "c"], True, False),
        (["a", "b", "c", "d", "e", "f"], False, False),  # too large, or a name that is refused
        (["a", "b", "c", "d", "e", "f"], True, True),
    ],
)
async def test_others_may_store_still(names: list[str], *, retryable: bool, works: bool) -> None:
    bench = Bench()
    for name in names:
        await bench.store(name, works=works, again=True, retryable=retryable)
    assert await bench.store("next", works=True) == ""


async def test_one_that_was_stored_between_begins_the_count_anew() -> None:
    bench = Bench()
    for name in "abc":
        await bench.store(name, works=False)
    await bench.store("d", works=True)
    for name in "efg":
        await bench.store(name, works=False)
    assert await bench.store("next", works=True) == ""
