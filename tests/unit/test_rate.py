"""A limit of bandwidth that many uploads share, with a clock that only the tests move."""

import asyncio
import heapq
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.offsite.rate import Rate
from asyncbackup.targets.target import BLOCK

_LEAST = 4096
NEAR = 1e-6


class Clock:
    """Time that passes only while everybody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._count), future))
        await future

    async def run(self, *tasks: "asyncio.Task[None]") -> None:
        """Let time pass until all are done."""
        while not all(task.done() for task in tasks):
            for _ in range(5):
                await asyncio.sleep(0)
            if self._sleepers and not all(task.done() for task in tasks):
                self.now, _, future = heapq.heappop(self._sleepers)
                future.set_result(None)
        for task in tasks:
            task.result()


def sent(limit: float, uploads: Sequence[Sequence[tuple[float, int]]]) -> list[tuple[float, int]]:
    """Run uploads, each of pauses and blocks; return when how many bytes were let through."""
    clock = Clock()
    rate = Rate(limit, clock=clock, sleep=clock.sleep)
    found: list[tuple[float, int]] = []

    async def upload(steps: Sequence[tuple[float, int]]) -> None:
        for pause, size in steps:
            if pause:
                await clock.sleep(pause)
            for piece in rate.pieces(bytes(size)):
                await rate.take(len(piece))
                found.append((clock.now, len(piece)))

    async def main() -> None:
        await clock.run(*(asyncio.create_task(upload(steps)) for steps in uploads))

    asyncio.run(main())
    return found


LIMITS = st.integers(1, 2_000_000)
STEPS = st.lists(st.tuples(st.floats(0, 10), st.integers(0, BLOCK)), max_size=6)


@given(LIMITS, st.lists(STEPS, min_size=1, max_size=4))
def test_in_no_time_do_more_bytes_pass_than_the_limit_and_one_seconds_burst(
    limit: int, uploads: list[list[tuple[float, int]]]
) -> None:
    found = sent(limit, uploads)
    assert sum(size for _, size in found) == sum(size for steps in uploads for _, size in steps)
    for first, (start, _) in enumerate(found):
        total = 0
        for end, size in found[first:]:
            total += size
            # Something must pass at a time, however low the limit is.
            assert total <= limit * (end - start + 1) + max(_LEAST, min(BLOCK, limit)) + NEAR * limit


@given(LIMITS, st.lists(STEPS, min_size=1, max_size=4))
def test_nobody_waits_longer_than_the_limit_demands(
    limit: int, uploads: list[list[tuple[float, int]]]
) -> None:
    found = sent(limit, uploads)
    total = sum(size for _, size in found)
    pauses = max((sum(pause for pause, _ in steps) for steps in uploads), default=0)
    if found:
        assert found[-1][0] - 1000.0 <= pauses + total / limit + NEAR


@given(st.integers(0, 3 * BLOCK), LIMITS)
def test_pieces_are_the_block_and_none_takes_much_longer_than_a_second(size: int, limit: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    pieces = list(Rate(limit).pieces(data[:size]))
    assert b"".join(pieces) == data[:size]
    assert all(0 < len(piece) <= max(_LEAST, min(BLOCK, limit)) for piece in pieces)


@pytest.mark.parametrize("size", [0, 1, BLOCK, 5 * BLOCK + 1])
def test_without_a_limit_nothing_waits(size: int) -> None:
    found = sent(0, [[(0, size)], [(0, size)]])
    assert {when for when, _ in found} <= {1000.0}
    assert sum(count for _, count in found) == 2 * size


def test_two_uploads_share_it_evenly() -> None:
    found = sent(10_000, [[(0, 100_000)], [(0, 100_000)]])
    assert found[-1][0] == pytest.approx(1000 + 200_000 / 10_000 - 1)


def test_a_long_pause_saves_up_no_more_than_a_second() -> None:
    found = sent(10_000, [[(3600, 50_000)]])
    assert found[-1][0] == pytest.approx(1000 + 3600 + 4)
