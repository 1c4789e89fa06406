"""What every secondary location does, whatever kind it is."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncbackup.errors import TargetError
from asyncbackup.naming import parse_part
from asyncbackup.targets.target import BLOCK, Upload
from tests.places import Place
from tests.targets import Held, fetch, store, upload

NAME = "host-db_2026-01-31_23-59-59.sql.gz"
MIB = 1024 * 1024
ODD_NAMES = (
    "db@5432-a%2Fb%20c_2026-01-31_23-59-59.sql.gz.json",
    "host-@globals_2026-01-31_23-59-59.sql.gz",
    "two words  and two spaces",
    "Ünï cödé 日本 🐘",
    "plus+and&equals=hash#question?semicolon;comma,",
    'it\'s "quoted" (really) [so] {it} is!',
    "50%",
    "%41 is not A",
    "~tilde-and-dash-",
    "n" * 200,
)


class UnreadableError(Exception):
    """The local file cannot be read."""


def data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def endless(name: str, size: int, reached: asyncio.Event, after: int) -> Upload:
    """Return an upload that brings some bytes, and then nothing for ever."""

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        for _ in range(after // BLOCK):
            yield bytes(BLOCK)
        reached.set()
        await asyncio.Event().wait()

    return Upload(name=name, size=size, sha256="0" * 64, blocks=blocks)


@pytest.mark.parametrize(
    "size",
    [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB, 23 * MIB + 7],
)
async def test_what_is_stored_comes_back(place: Place, size: int) -> None:
    async with place.target.connect() as remote:
        await remote.put(upload(NAME, data(size)))
        assert await remote.size(NAME) == size
        assert await remote.list() == {NAME: size}
        assert await remote.sha256(NAME) in {None, hashlib.sha256(data(size)).hexdigest()}
        async with remote.get(NAME) as blocks:
            found = [block async for block in blocks]
    assert b"".join(found) == data(size)
    assert all(type(block) is bytes and 0 < len(block) <= BLOCK for block in found)
    assert place.files() == {NAME: data(size)}


@given(content=st.binary(max_size=3000), block=st.integers(1, 1000))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_content_comes_back_however_it_was_cut(place: Place, content: bytes, block: int) -> None:
    async with place.target.connect() as remote:
        await remote.put(upload(NAME, content, block=block))
    assert await fetch(place.target, NAME) == content


async def test_readers_see_the_old_file_or_the_new_one_whole(place: Place) -> None:
    old, new = data(3 * MIB), data(12 * MIB)
    await store(place.target, NAME, old)
    held = Held(place.target)
    task = asyncio.create_task(store(held, NAME, new))
    await held.reached.wait()
    assert await fetch(place.target, NAME) == old
    async with place.target.connect() as remote:
        assert await remote.size(NAME) == len(old)
        others = (await remote.list()).keys() - {NAME}
        assert [parse_part(other) for other in others] == [NAME] * len(others), "nobody could tell what it is"
    held.release.set()
    await task
    assert await fetch(place.target, NAME) == new
    assert place.files() == {NAME: new}


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_names_are_taken_as_they_are(place: Place, name: str) -> None:
    other = f"{name}.json"
    async with place.target.connect() as remote:
        await remote.put(upload(name, b"content"))
        await remote.put(upload(other, b"more"))
        assert await remote.list() == {name: 7, other: 4}
        assert (await remote.size(name), await remote.size(other)) == (7, 4)
        async with remote.get(name) as blocks:
            assert b"".join([block async for block in blocks]) == b"content"
        assert place.files() == {name: b"content", other: b"more"}
        await remote.delete(name)
    assert place.files() == {other: b"more"}


async def test_what_is_missing_is_said_to_be_missing(place: Place) -> None:
    async with place.target.connect() as remote:
        assert await remote.size(NAME) is None
        assert await remote.list() == {}
        await remote.delete(NAME)
    async with place.target.connect() as remote:
        with pytest.raises(TargetError) as caught:
            async with remote.get(NAME) as blocks:
                [block async for block in blocks]
    assert caught.value.missing
    assert not caught.value.retryable
    assert NAME in caught.value.message


async def test_what_is_deleted_is_gone_and_may_be_deleted_again(place: Place) -> None:
    await store(place.target, NAME, b"content")
    await store(place.target, "another", b"content")
    async with place.target.connect() as remote:
        await remote.delete(NAME)
        assert await remote.size(NAME) is None
        await remote.delete(NAME)
        assert await remote.list() == {"another": 7}
    assert place.files() == {"another": b"content"}


async def test_files_of_others_are_listed_read_replaced_and_deleted_only_by_name(place: Place) -> None:
    place.plant("foreign", b"theirs")
    place.plant(NAME, b"of the tool of old")
    async with place.target.connect() as remote:
        assert await remote.list() == {"foreign": 6, NAME: 18}
        await remote.put(upload(NAME, b"ours"))
        await remote.delete("another")
    assert await fetch(place.target, "foreign") == b"theirs"
    assert place.files() == {"foreign": b"theirs", NAME: b"ours"}


@pytest.mark.parametrize("after", [0, 2 * BLOCK, 12 * MIB], ids=["nothing", "some", "much"])
async def test_an_upload_that_is_cancelled_leaves_nothing(place: Place, after: int) -> None:
    place.plant(NAME, b"the old one")
    reached = asyncio.Event()

    async def put() -> None:
        async with place.target.connect() as remote:
            await remote.put(endless(NAME, 20 * MIB, reached, after))

    task = asyncio.create_task(put())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert place.files() == {NAME: b"the old one"}


@pytest.mark.parametrize("after", [0, 2 * BLOCK, 12 * MIB], ids=["nothing", "some", "much"])
async def test_a_file_that_cannot_be_read_leaves_nothing_and_says_so_itself(place: Place, after: int) -> None:
    place.plant(NAME, b"the old one")
    why = UnreadableError("the local volume is gone")
    closed = False

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            for _ in range(after // BLOCK):
                yield bytes(BLOCK)
            raise why
        finally:
            closed = True

    async with place.target.connect() as remote:
        with pytest.raises(UnreadableError) as caught:
            await remote.put(Upload(name=NAME, size=20 * MIB, sha256="0" * 64, blocks=blocks))
    assert caught.value is why
    assert closed
    assert place.files() == {NAME: b"the old one"}


@pytest.mark.parametrize(
    ("size", "announced"),
    [
        (0, 1),
        (1, 0),
        (BLOCK, BLOCK + 1),
        (BLOCK + 1, BLOCK),
        (12 * MIB, 12 * MIB + 1),
        (12 * MIB + 1, 12 * MIB),
    ],
)
async def test_a_file_that_is_not_as_long_as_announced_is_not_stored(
    place: Place, size: int, announced: int
) -> None:
    place.plant(NAME, b"the old one")
    async with place.target.connect() as remote:
        with pytest.raises(TargetError) as caught:
            await remote.put(upload(NAME, data(size), size=announced))
    assert not caught.value.retryable
    assert place.files() == {NAME: b"the old one"}


async def test_what_is_read_from_is_closed_at_once(place: Place) -> None:
    closed = False

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            yield b"more than"
            yield b"was announced"
        finally:
            closed = True

    async with place.target.connect() as remote:
        with pytest.raises(TargetError):
            await remote.put(Upload(name=NAME, size=10, sha256="0" * 64, blocks=blocks))
        assert closed


async def test_several_uploads_at_once_do_not_mix(place: Place) -> None:
    files = {f"{NAME}.{number}": data(MIB + number) for number in range(6)}
    async with asyncio.TaskGroup() as group:
        for name, content in files.items():
            group.create_task(store(place.target, name, content))
    assert place.files() == files


async def test_uploads_of_the_same_name_at_once_leave_one_of_them_whole(place: Place) -> None:
    contents = [bytes([number]) * (6 * MIB) for number in range(3)]
    async with asyncio.TaskGroup() as group:
        for content in contents:
            group.create_task(store(place.target, NAME, content))
    files = place.files()
    assert files.keys() == {NAME}
    assert files[NAME] in contents


async def test_many_files_lie_side_by_side(place: Place) -> None:
    names = [f"host-{number:03d}%20x_2026-01-31_23-59-59.sql.gz" for number in range(300)]
    async with place.target.connect() as remote:
        for name in names:
            await remote.put(upload(name, name.encode()))
        assert await remote.list() == {name: len(name) for name in names}
        for name in names[:290]:
            await remote.delete(name)
        assert (await remote.list()).keys() == set(names[290:])


async def test_a_reader_may_leave_early(place: Place) -> None:
    await store(place.target, NAME, data(12 * MIB))
    async with place.target.connect() as remote, remote.get(NAME) as blocks:
        assert await anext(aiter(blocks))
    assert await fetch(place.target, NAME) == data(12 * MIB)


async def test_what_goes_wrong_with_the_reader_is_the_readers(place: Place) -> None:
    await store(place.target, NAME, data(2 * MIB))

    async def read() -> None:
        async with place.target.connect() as remote, remote.get(NAME) as blocks:
            async for _ in blocks:
                raise UnreadableError

    with pytest.raises(UnreadableError):
        await read()


class Peak:
    """By how many bytes this process has grown at most."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # begin anew
        self._before = self._value("VmRSS")

    @staticmethod
    def _value(name: str) -> int:
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{name}:"))
        return int(line.split()[1]) * 1024

    def grown(self) -> int:
        return self._value("VmHWM") - self._before


async def test_memory_does_not_grow_with_a_file(place: Place) -> None:
    size = 128 * MIB
    digest = hashlib.sha256()
    for number in range(size // BLOCK):
        digest.update(number.to_bytes(4) * (BLOCK // 4))

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        for number in range(offset // BLOCK, size // BLOCK):
            yield number.to_bytes(4) * (BLOCK // 4)

    await store(place.target, "warm", bytes(12 * MIB))
    await fetch(place.target, "warm")
    peak = Peak()
    async with place.target.connect() as remote:
        await remote.put(Upload(name=NAME, size=size, sha256=digest.hexdigest(), blocks=blocks))
        number = 0
        async with remote.get(NAME) as found:
            async for block in found:
                number += len(block)
        assert number == size
    # The one that keeps everything shows that this would be seen.
    assert (peak.grown() < size / 3) == (place.kind != "memory")


async def test_no_secret_is_shown(place: Place) -> None:
    shown = [place.target.label, repr(place.target), str(place.target)]
    async with place.target.connect() as remote:
        shown.append(repr(remote))
        with pytest.raises(TargetError) as caught:
            async with remote.get(NAME):
                pass
        shown += [str(caught.value), caught.value.hint, repr(caught.value.__cause__)]
    assert place.target.label
    assert not [secret for secret in place.secrets for text in shown if secret in text]


async def test_errors_are_those_of_a_location(place: Place) -> None:
    async with place.target.connect() as remote:
        with pytest.raises(TargetError) as caught:
            await remote.put(upload(NAME, b"four", size=5))
    assert caught.value.category == "target"
    assert caught.value.hint
    assert not caught.value.part


async def test_a_connection_lasts_for_one_thing_after_the_other(place: Place) -> None:
    async with place.target.connect() as remote:
        for number in range(5):
            await remote.put(upload(NAME, data(BLOCK + number)))
            assert await remote.size(NAME) == BLOCK + number
            async with remote.get(NAME) as blocks:
                assert b"".join([block async for block in blocks]) == data(BLOCK + number)
            await remote.delete(NAME)
            assert await remote.list() == {}
