"""Backups on their way to secondary locations: real files, and locations that lie, break and are away."""

import asyncio
import json
import os
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from asyncbackup import manifest, naming
from asyncbackup.errors import TargetError
from asyncbackup.model import Backup, DatabaseSpec, Policy, Tier, Verdict, Verification
from asyncbackup.model import Level as Compared
from asyncbackup.offsite.rate import Rate
from asyncbackup.targets.folder import Folder
from asyncbackup.targets.target import Remote, Upload
from tests.offsite import APP, NOW, TWIN, Volume, a_run, content_of, name_of, proof
from tests.targets import (
    ALWAYS,
    Breaking,
    Complaining,
    Gone,
    Held,
    Honest,
    Idle,
    Late,
    Memory,
    Short,
    _Through,
)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "backups")


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    """A lock folder, where knowledge of the locations outlives a run."""
    folder = tmp_path / "locks"
    folder.mkdir()
    return folder


def whole(memory: Memory) -> set[str]:
    """The backups that are there with a manifest that is theirs."""
    found = set()
    for name, data in memory.files.items():
        described = memory.files.get(name + naming.MANIFEST)
        if naming.parse_name(name) and described is not None:
            of = manifest.from_json(described)
            assert of.file.name == name
            if of.file.bytes == len(data):
                found.add(name)
    return found


def remembered(locks: Path) -> Path:
    (file,) = locks.glob("copies-*")
    return file


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def until(seen: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not seen():  # noqa: ASYNC110 - nobody sets an event there
            await asyncio.sleep(0.01)


def plant(memory: Memory, spec: DatabaseSpec, age: timedelta, size: int = 1000) -> str:
    """Put a copy there that somebody else has stored."""
    at = NOW - age
    name, data = name_of(spec, at), content_of(spec, at, size)
    memory.files[name] = data
    memory.files[name + naming.MANIFEST] = manifest.to_json(proof(spec, name, data, at))
    return name


@dataclass
class Watched(Honest):
    """Writes down what is asked of it, and how many are connected at a time."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    connected: int = 0
    most: int = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Remote]:
        self.connected += 1
        self.most = max(self.most, self.connected)
        try:
            async with super().connect() as remote:
                await asyncio.sleep(0)
                yield remote
        finally:
            self.connected -= 1

    def around(self, remote: Remote) -> Remote:
        asked = self.asked

        class Watching(_Through):
            async def put(self, upload: Upload, part: str = "") -> None:
                asked.append(("put", upload.name))
                await super().put(upload, part)

            async def delete(self, name: str) -> None:
                asked.append(("delete", name))
                await super().delete(name)

        return Watching(remote)

    def stored(self) -> list[str]:
        return [name for what, name in self.asked if what == "put"]

    def deleted(self) -> list[str]:
        return [name for what, name in self.asked if what == "delete"]


@dataclass
class Refusing(Honest):
    """Refuses what is stored, for good or for now."""

    retryable: bool = False
    tries: int = 0

    def around(self, remote: Remote) -> Remote:
        liar = self

        class Lying(_Through):
            async def put(self, upload: Upload, part: str = "") -> None:
                if not liar.misbehaves():
                    return await super().put(upload, part)
                liar.tries += 1
                raise TargetError("552 quota exceeded", hint="free some space", retryable=liar.retryable)

        return Lying(remote)


@dataclass
class Silent(Honest):
    """Lets everybody in, and then does not list."""

    asked: int = 0

    def around(self, remote: Remote) -> Remote:
        liar = self

        class Lying(_Through):
            async def list(self) -> dict[str, int]:
                liar.asked += 1
                await asyncio.sleep(0.01)
                raise liar.broken("no end of the listing")

        return Lying(remote)


# --- one backup


async def test_the_data_goes_first_and_the_manifest_commits_it(volume: Volume) -> None:
    target = Watched(Memory())
    new = volume.put(APP, NOW, 600_000)
    async with a_run(target) as run:
        (copied,) = await run.ship(APP, new)
    name = new.path.name
    assert target.stored() == [name, name + ".json"]
    assert target.inner.files == {  # type: ignore[attr-defined]
        name: new.path.read_bytes(),
        name + ".json": new.path.with_name(name + ".json").read_bytes(),
    }
    assert (copied.stored, copied.bytes, copied.error) == ((name,), new.bytes, "")
    assert run.told.names() == ["upload.started", "upload.finished"]
    assert run.told.of("upload.finished")[0]["location"] == "memory://test/"


async def test_what_may_pass_is_tried_again_and_each_new_try_is_told(volume: Volume) -> None:
    memory = Memory()
    new = volume.put(APP, NOW)
    async with a_run(Gone(memory, times=2, answers=1), retries=2) as run:
        (copied,) = await run.ship(APP, new)
    assert copied.error == ""
    assert whole(memory) == {new.path.name}
    assert [one["attempt"] for one in run.told.of("upload.retried")] == [2, 3]


async def test_tries_have_an_end(volume: Volume) -> None:
    target = Refusing(Memory(), retryable=True)
    async with a_run(target, retries=2) as run:
        (copied,) = await run.ship(APP, volume.put(APP, NOW))
    assert target.tries == 3
    assert (copied.error, copied.hint, copied.category) == ("552 quota exceeded", "free some space", "target")


async def test_what_cannot_pass_is_not_tried_again(volume: Volume) -> None:
    target = Refusing(Memory())
    async with a_run(target) as run:
        (copied,) = await run.ship(APP, volume.put(APP, NOW))
    assert target.tries == 1
    assert copied.stored == ()
    (failed,) = run.told.of("upload.failed")
    assert (failed["error"], failed["category"]) == ("552 quota exceeded", "target")
    assert run.told.names() == ["upload.started", "upload.failed"]


@pytest.mark.parametrize("after", [1, 300_000, 599_999])
async def test_a_part_is_handed_to_the_next_try(volume: Volume, after: int) -> None:
    memory = Memory(resumes=True)
    new = volume.put(APP, NOW, 600_000)
    async with a_run(Breaking(memory, times=1, after=after)) as run:
        (copied,) = await run.ship(APP, new)
    assert copied.error == ""
    assert memory.files[new.path.name] == new.path.read_bytes()
    assert memory.parts == {}
    assert [one["resumed"] for one in run.told.of("upload.retried")] == [True]


async def test_a_part_that_nobody_will_go_on_with_is_cleared(volume: Volume) -> None:
    memory = Memory(resumes=True)
    async with a_run(Breaking(memory, after=1000), retries=1) as run:
        (copied,) = await run.ship(APP, volume.put(APP, NOW, 600_000))
    assert "lost the connection" in copied.error
    assert (memory.files, memory.parts) == ({}, {})


async def test_a_part_is_cleared_when_the_pause_is_interrupted(volume: Volume) -> None:
    memory = Memory(resumes=True)
    new = volume.put(APP, NOW, 600_000)
    async with a_run(Breaking(memory, after=1000), retries=5) as run:
        terms = replace(run.offsite.terms, retry_delay=60.0)
        run.offsite = replace(run.offsite, terms=terms)
        task = asyncio.create_task(run.ship(APP, new))
        await until(lambda: memory.parts)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (memory.files, memory.parts) == ({}, {})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def lose(path: Path) -> None:
    path.unlink()


def lose_manifest(path: Path) -> None:
    path.with_name(path.name + ".json").unlink()


@pytest.mark.parametrize("harm", [flip, cut, grow, lose, lose_manifest])
async def test_a_file_that_is_not_what_was_written_is_not_stored_and_leaves_nothing(
    volume: Volume, harm: "object"
) -> None:
    memory = Memory()
    new = volume.put(APP, NOW, 600_000)
    harm(new.path)  # type: ignore[operator]
    async with a_run(memory) as run:
        (copied,) = await run.ship(APP, new)
    assert copied.error
    assert copied.stored == ()
    assert (memory.files, memory.parts) == ({}, {})
    assert run.told.of("upload.retried") == []


async def test_a_link_in_the_place_of_a_backup_is_not_followed(volume: Volume, tmp_path: Path) -> None:
    memory = Memory()
    new = volume.put(APP, NOW)
    moved = tmp_path / "moved"
    new.path.rename(moved)
    new.path.symlink_to(moved)
    async with a_run(memory) as run:
        (copied,) = await run.ship(APP, new)
    assert "cannot be read" in copied.error
    assert memory.files == {}


@pytest.mark.parametrize("liar", [Short, Idle])
async def test_a_location_that_does_not_have_what_it_was_sent_is_not_believed(
    volume: Volume, liar: type[Honest]
) -> None:
    memory = Memory()
    new = volume.put(APP, NOW)
    async with a_run(liar(memory), retries=1) as run:
        (copied,) = await run.ship(APP, new)
        assert "was stored, and" in copied.error
        assert copied.hint
        assert new.path.name not in whole(memory)
        assert new.path.name + ".json" not in memory.files
        # Nor does anybody take it for stored.
        assert await run.unsaved(APP, [new], [new]) == {new.path.name}
    async with a_run(memory) as run:
        (copied,) = await run.ship(APP, None, [new])
    assert whole(memory) == {new.path.name}


async def test_it_was_honest_at_the_second_try(volume: Volume) -> None:
    memory = Memory()
    new = volume.put(APP, NOW)
    async with a_run(Short(memory, times=1)) as run:
        (copied,) = await run.ship(APP, new)
    assert copied.error == ""
    assert whole(memory) == {new.path.name}


async def test_what_was_stored_though_an_error_said_otherwise_is_gone_on_with_by_the_next_run(
    volume: Volume,
) -> None:
    memory = Memory()
    new = volume.put(APP, NOW)
    async with a_run(Complaining(memory), retries=1) as run:
        (copied,) = await run.ship(APP, new)
    assert "lost the connection" in copied.error
    assert set(memory.files) == {new.path.name}, "the data without its manifest is no backup"
    async with a_run(memory) as run:
        assert await run.unsaved(APP, [new], [new]) == {new.path.name}
        (copied,) = await run.ship(APP, None, [new])
    assert copied.stored == (new.path.name,)
    assert whole(memory) == {new.path.name}


async def test_it_was_stored_twice_where_the_first_answer_was_lost(volume: Volume) -> None:
    memory = Memory()
    new = volume.put(APP, NOW)
    async with a_run(Complaining(memory, times=2)) as run:
        (copied,) = await run.ship(APP, new)
    assert copied.error == ""
    assert whole(memory) == {new.path.name}


@pytest.mark.parametrize("answers", range(1, 12))
async def test_wherever_it_breaks_there_is_no_half_backup_and_the_next_run_completes_it(
    volume: Volume, locks: Path, answers: int
) -> None:
    memory = Memory()
    old, new = volume.put(APP, NOW - timedelta(days=1)), volume.put(APP, NOW)
    async with a_run(Gone(memory, answers=answers), retries=0, lock_folder=locks) as run:
        (copied,) = await run.ship(APP, new, [old])
        unsaved = await run.unsaved(APP, [new, old], [old])
    names = {old.path.name, new.path.name}
    assert set(copied.stored) <= whole(memory)
    assert not (unsaved ^ (names - whole(memory))) & {old.path.name} or unsaved == {old.path.name}
    assert bool(copied.error) == (not names <= whole(memory)) or copied.error
    async with a_run(memory, lock_folder=locks) as run:
        (copied,) = await run.ship(APP, None, [new, old])
    assert copied.error == ""
    assert whole(memory) == names
    assert memory.parts == {}


# --- a listing that lags


async def test_what_was_stored_in_this_run_counts_however_late_the_listing_is(volume: Volume) -> None:
    memory = Memory()
    target = Watched(Late(memory))
    # The listing is first asked for after the new backup was stored, and does not have it.
    await target.inner.connect().__aenter__()
    async with target.inner.connect() as remote:
        assert await remote.list() == {}
    new = volume.put(APP, NOW)
    async with a_run(target) as run:
        (copied,) = await run.ship(APP, new)
        assert copied.stored == (new.path.name,)
        assert await run.unsaved(APP, [new], [new]) == set()
    assert target.stored() == [new.path.name, new.path.name + ".json"]


async def test_what_was_removed_and_is_listed_still_is_not_counted_again(volume: Volume) -> None:
    memory = Memory()
    late = Late(memory)
    days = volume.days(APP, 3)
    async with a_run(memory) as run:
        await run.ship(APP, None, days)
    async with late.connect() as remote:
        await remote.list()
    async with a_run(late, keep=1) as run:
        (copied,) = await run.ship(APP, None, days)
        assert set(copied.removed) == {one.path.name for one in days[1:]}
        (copied,) = await run.ship(APP, None, days)
        assert (copied.removed, copied.error) == ((), "")
    async with a_run(late, keep=1) as run:
        (copied,) = await run.ship(APP, None, days)
    assert (copied.removed, copied.error) == ((), "")
    assert whole(memory) == {days[0].path.name}


# --- a location that is away


async def test_a_location_that_is_away_is_asked_once_and_the_fleet_does_not_wait_for_it(
    volume: Volume,
) -> None:
    away, memory = Gone(Memory()), Memory()
    specs = [DatabaseSpec("db", 5432, f"app{number}") for number in range(50)]
    made = {spec: volume.put(spec, NOW) for spec in specs}
    knocked = 0

    @dataclass
    class Counted(Honest):
        @asynccontextmanager
        async def connect(self) -> AsyncIterator[Remote]:
            nonlocal knocked
            knocked += 1
            async with super().connect() as remote:
                yield remote

    async with a_run(Counted(away), memory, retries=2, slots=2) as run:
        results = await asyncio.gather(*(run.ship(spec, made[spec]) for spec in specs))
    assert all(of_away.error and not of_memory.error for of_away, of_memory in results)
    assert whole(memory) == {one.path.name for one in made.values()}
    assert knocked <= 2 * 3, "only those that were under way have tried, and tried again"


async def test_a_location_that_lets_in_and_does_not_list_is_asked_once(volume: Volume) -> None:
    target = Silent(Memory())
    specs = [DatabaseSpec("db", 5432, f"app{number}") for number in range(20)]
    made = {spec: volume.days(spec, 2) for spec in specs}
    async with a_run(target) as run:
        found = await asyncio.gather(*(run.unsaved(spec, made[spec], made[spec][1:]) for spec in specs))
    assert found == [{made[spec][1].path.name} for spec in specs], "nobody knows, so they stay"
    assert target.asked == 1
    assert len(run.told.of("remote.unread")) == 1


async def test_a_location_that_lets_in_and_stores_nothing_does_not_cost_the_tries_of_a_whole_fleet(
    volume: Volume,
) -> None:
    target = Refusing(Memory(), retryable=True)
    specs = [DatabaseSpec("db", 5432, f"app{number}") for number in range(30)]
    made = {spec: volume.put(spec, NOW) for spec in specs}
    async with a_run(target, retries=2, slots=2) as run:
        results = await asyncio.gather(*(run.ship(spec, made[spec]) for spec in specs))
    assert all(copied.error == "552 quota exceeded" for (copied,) in results)
    assert target.tries <= 6 * 3


async def test_one_file_that_is_refused_keeps_no_other_from_going_there(volume: Volume) -> None:
    target = Refusing(Memory(), times=1)
    specs = [DatabaseSpec("db", 5432, f"app{number}") for number in range(5)]
    made = {spec: volume.put(spec, NOW) for spec in specs}
    async with a_run(target, retries=0, slots=1) as run:
        results = await asyncio.gather(*(run.ship(spec, made[spec]) for spec in specs))
    assert [bool(copied.error) for (copied,) in results] == [True] + [False] * 4


async def test_after_a_minute_somebody_tries_again(volume: Volume) -> None:
    now = 0.0
    away = Gone(Memory())
    one, two, three = (volume.put(replace(APP, dbname=name), NOW) for name in ("one", "two", "three"))
    async with a_run(away, retries=0, clock=lambda: now) as run:
        (copied,) = await run.ship(replace(APP, dbname="one"), one)
        assert copied.error
        away.back()
        (copied,) = await run.ship(replace(APP, dbname="two"), two)
        assert copied.error
        now = 61.0
        (copied,) = await run.ship(replace(APP, dbname="three"), three)
        assert copied.error == ""
        (copied,) = await run.ship(replace(APP, dbname="one"), None, [one])
        assert copied.stored == (one.path.name,)


async def test_one_location_of_several_that_is_away_is_told_by_name(volume: Volume) -> None:
    one, two = Memory(label="memory://one/"), Memory(label="memory://two/")
    new = volume.put(APP, NOW)
    async with a_run(one, Gone(two)) as run:
        good, bad = await run.ship(APP, new)
    assert (good.location, good.error) == ("memory://one/", "")
    assert bad.location == "memory://two/"
    assert bad.error == "memory://two/: nobody answers"
    assert {one["location"] for one in run.told.of("upload.failed")} == {"memory://two/"}


async def test_a_defect_is_told_as_one_and_stops_nobody(volume: Volume) -> None:
    class Buggy(Honest):
        def around(self, remote: Remote) -> Remote:
            raise ZeroDivisionError("oh")

    memory = Memory()
    new = volume.put(APP, NOW)
    async with a_run(Buggy(Memory()), memory) as run:
        bad, good = await run.ship(APP, new)
    assert bad.category == "bug"
    assert "ZeroDivisionError" in bad.error
    assert isinstance(run.told.of("upload.failed")[0]["exc_info"], ZeroDivisionError)
    assert good.stored == (new.path.name,)


async def test_a_backup_directory_that_cannot_be_looked_at_stops_nobody(volume: Volume) -> None:
    memory = Memory()
    new, old = volume.days(APP, 2)
    strange = replace(
        old, path=Path("/dev/null/x" * 1000) / old.path.name
    )  # a name that is too long to look for
    async with a_run(memory) as run:
        (copied,) = await run.ship(APP, new, [strange])
    assert copied.error == ""
    assert whole(memory) == {new.path.name}


# --- what uploads share


async def test_never_more_uploads_at_once_than_there_are_slots_and_each_is_committed_before_the_next(
    volume: Volume,
) -> None:
    memory = Memory()
    target = Watched(memory)
    specs = [DatabaseSpec("db", 5432, f"app{number}") for number in range(20)]
    made = {spec: volume.put(spec, NOW) for spec in specs}
    async with a_run(target, slots=2) as run:
        await asyncio.gather(*(run.ship(spec, made[spec]) for spec in specs))
    assert target.most <= 3  # and one that looks
    stored = target.stored()
    assert len(stored) == 40
    for spec in specs:
        data = stored.index(made[spec].path.name)
        commit = stored.index(made[spec].path.name + ".json")
        assert commit - data <= 3, "a manifest does not wait for the data of the whole fleet"


async def test_a_run_that_is_interrupted_has_committed_what_it_has_stored(volume: Volume) -> None:
    memory = Memory()
    specs = [DatabaseSpec("db", 5432, f"app{number}") for number in range(20)]
    made = {spec: volume.put(spec, NOW) for spec in specs}
    seen = 0

    class Counting(Honest):
        def around(self, remote: Remote) -> Remote:
            class Lying(_Through):
                async def put(self, upload: Upload, part: str = "") -> None:
                    nonlocal seen
                    await super().put(upload, part)
                    seen += 1
                    if seen == 10:
                        fleet.cancel()

            return Lying(remote)

    async with a_run(Counting(memory), slots=1) as run:
        fleet = asyncio.gather(*(run.ship(spec, made[spec]) for spec in specs))
        with pytest.raises(asyncio.CancelledError):
            await fleet
    data = {name for name in memory.files if naming.parse_name(name)}
    assert len(data - whole(memory)) <= 1


async def test_slots_are_free_in_the_pauses(volume: Volume) -> None:
    memory = Memory()

    class Picky(Honest):
        def around(self, remote: Remote) -> Remote:
            liar = self

            class Lying(_Through):
                async def put(self, upload: Upload, part: str = "") -> None:
                    if "slow" in upload.name:
                        raise liar.broken("not now")
                    await super().put(upload, part)

            return Lying(remote)

    slow, quick = replace(APP, dbname="slow"), replace(APP, dbname="quick")
    async with a_run(Picky(memory), slots=1, retries=5) as run:
        run.offsite = replace(run.offsite, terms=replace(run.offsite.terms, retry_delay=600.0))
        waiting = asyncio.create_task(run.ship(slow, volume.put(slow, NOW)))
        await until(lambda: run.told.of("upload.started"))
        async with asyncio.timeout(30):
            (copied,) = await run.ship(quick, volume.put(quick, NOW))
        assert copied.error == ""
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_the_limit_of_bandwidth_holds_for_all_of_them_together(volume: Volume) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        end = now + seconds
        await asyncio.sleep(0)
        now = max(now, end)

    one, two = Memory(label="memory://one/"), Memory(label="memory://two/")
    specs = [replace(APP, dbname=f"app{number}") for number in range(4)]
    made = {spec: volume.put(spec, NOW, 100_000) for spec in specs}
    async with a_run(one, two, slots=4, rate=Rate(10_000, clock=lambda: now, sleep=sleep)) as run:
        await asyncio.gather(*(run.ship(spec, made[spec]) for spec in specs))
    total = sum(one.bytes for one in made.values()) * 2
    assert now >= total / 10_000 - 1.001
    assert len(whole(one)) == len(whole(two)) == 4


async def test_looking_after_a_fleet_by_hand_takes_no_more_connections_than_uploads_may(
    volume: Volume, locks: Path
) -> None:
    memory = Memory()
    target = Watched(memory)
    specs = [replace(APP, dbname=f"app{number}") for number in range(30)]
    for spec in specs:
        for age in range(5, 8):
            plant(memory, spec, timedelta(days=age))
    made = {spec: volume.put(spec, NOW) for spec in specs}
    async with a_run(target, keep=1, slots=2, lock_folder=locks) as run:
        await asyncio.gather(*(run.ship(spec, None, [made[spec]]) for spec in specs))
    assert whole(memory) == {one.path.name for one in made.values()}
    assert target.most <= 3  # two that store or delete, and one that looks


async def test_a_thousand_that_wait_for_their_turn_hold_no_files_open(volume: Volume) -> None:
    held = Held(Memory())
    specs = [replace(APP, dbname=f"app{number}") for number in range(300)]
    made = {spec: volume.put(spec, NOW, 10) for spec in specs}
    before = open_files()
    async with a_run(held, slots=2) as run:
        fleet = asyncio.gather(*(run.ship(spec, made[spec]) for spec in specs))
        await held.reached.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert open_files() - before <= 10
        held.release.set()
        results = await fleet
    assert not any(copied.error for (copied,) in results)


async def test_memory_does_not_grow_with_the_file(tmp_path: Path, volume: Volume) -> None:
    place = tmp_path / "second"
    place.mkdir()
    data = content_of(APP, NOW, 1 << 20) * 64
    new = volume.put(APP, NOW, content=data)
    size = len(data)
    del data
    async with a_run(Folder(place, 0o600, 60)) as run:
        await run.ship(replace(APP, dbname="small"), volume.put(replace(APP, dbname="small"), NOW))
        tracemalloc.start()
        try:
            (copied,) = await run.ship(APP, new)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert copied.error == ""
    assert (place / new.path.name).stat().st_size == size
    assert peak < 16 << 20


# --- interrupted


async def test_an_interrupt_leaves_nothing_half_done_and_the_next_run_stores_it(volume: Volume) -> None:
    memory = Memory()
    held = Held(memory)
    new = volume.put(APP, NOW, 600_000)
    async with a_run(held) as run:
        task = asyncio.create_task(run.ship(APP, new))
        await held.reached.wait()
        assert memory.parts
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (memory.files, memory.parts) == ({}, {})
    (failed,) = run.told.of("upload.failed")
    assert (failed["category"], failed["error"]) == ("interrupted", "interrupted")
    async with a_run(memory) as run:
        await run.ship(APP, None, [new])
    assert whole(memory) == {new.path.name}


async def test_an_interrupt_waits_until_every_location_was_cleared(volume: Volume) -> None:
    @dataclass
    class Slow(Honest):
        reached: asyncio.Event = field(default_factory=asyncio.Event)
        cleared: bool = False
        seconds: float = 0.0

        def around(self, remote: Remote) -> Remote:
            it = self

            class Clearing(_Through):
                async def put(self, upload: Upload, part: str = "") -> None:
                    it.reached.set()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        await asyncio.sleep(it.seconds)
                        it.cleared = True

            return Clearing(remote)

    quick, slow = Slow(Memory(label="memory://1/")), Slow(Memory(label="memory://2/"), seconds=0.2)
    async with a_run(quick, slow) as run:
        task = asyncio.create_task(run.ship(APP, volume.put(APP, NOW)))
        await quick.reached.wait()
        await slow.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (quick.cleared, slow.cleared) == (True, True)
    assert len(run.told.of("upload.failed")) == 2


# --- what earlier runs could not store


async def test_the_backlog_is_stored_newest_first(volume: Volume) -> None:
    target = Watched(Memory())
    days = volume.days(APP, 6)
    async with a_run(target) as run:
        (copied,) = await run.ship(APP, days[0], random.sample(days[1:], 5))
    assert copied.stored == tuple(one.path.name for one in days)


async def test_only_what_retention_there_would_keep_is_stored(volume: Volume) -> None:
    memory = Memory()
    days = volume.days(APP, 6)
    async with a_run(memory, keep=2) as run:
        (copied,) = await run.ship(APP, days[0], days[1:])
    assert whole(memory) == {one.path.name for one in days[:2]}
    assert copied.removed == ()


async def test_what_a_test_restore_found_bad_or_has_no_manifest_is_not_stored(volume: Volume) -> None:
    memory = Memory()
    new, bad, old = volume.days(APP, 3)
    record = Verification(
        name=bad.path.name, host="db", port=5432, dbname="app", verdict=Verdict.BAD, level=Compared.ROWS,
        proven=True, run_id="r", started_at=NOW, seconds=1, load_seconds=1, bytes=bad.bytes, sha256="0" * 64,
        server_version="15.1",
    )  # fmt: skip
    lost = replace(old, manifest=None, good=False)
    async with a_run(memory) as run:
        await run.ship(APP, new, [replace(bad, verification=record), lost])
        assert whole(memory) == {new.path.name}
        # Nor does anybody keep it here because it is not there.
        assert await run.unsaved(APP, [new, lost], [replace(bad, verification=record), lost]) == set()


async def test_a_file_that_is_damaged_here_keeps_no_other_from_going_there(volume: Volume) -> None:
    memory = Memory()
    days = volume.days(APP, 4)
    flip(days[1].path)
    async with a_run(memory) as run:
        (copied,) = await run.ship(APP, days[0], days[1:])
        assert whole(memory) == {one.path.name for one in (days[0], *days[2:])}
        assert copied.category == "damaged"
        assert str(days[1].path) in copied.error
        assert len(run.told.of("upload.failed")) == 1
    async with a_run(memory, keep=2) as run:
        (copied,) = await run.ship(APP, None, days)
        assert copied.removed, "older copies are looked after all the same"


async def test_what_a_location_has_whole_is_not_stored_again(volume: Volume, locks: Path) -> None:
    memory = Memory()
    days = volume.days(APP, 3)
    async with a_run(memory, lock_folder=locks) as run:
        await run.ship(APP, days[0], days[1:])
    target = Watched(memory)
    async with a_run(target, lock_folder=locks) as run:
        (copied,) = await run.ship(APP, None, days)
    assert (copied.stored, target.stored()) == ((), [])


@pytest.mark.parametrize("harm", ["cut", "no manifest", "cut manifest", "empty manifest", "other manifest"])
async def test_what_is_not_whole_there_is_stored_again(volume: Volume, harm: str) -> None:
    memory = Memory()
    new, old = volume.days(APP, 2)
    async with a_run(memory) as run:
        await run.ship(APP, new, [old])
    name, beside = old.path.name, old.path.name + ".json"
    good = memory.files[beside]
    match harm:
        case "cut":
            memory.files[name] = memory.files[name][:-1]
        case "no manifest":
            del memory.files[beside]
        case "cut manifest":
            memory.files[beside] = good[:-10]
        case "empty manifest":
            memory.files[beside] = b""
        case "other manifest":
            memory.files[beside] = memory.files[new.path.name + ".json"]
    sure = harm in {"cut", "no manifest"}
    async with a_run(memory) as run:
        local = [new, old] if sure else [new]  # what lies here, too, is believed by its name and length
        assert await run.unsaved(APP, local, [old]) == {name}
        if sure:
            await run.ship(APP, None, [new, old])
            assert whole(memory) == {new.path.name, name}
            assert memory.files[beside] == good


# --- pruning here spares what is nowhere else


async def test_what_is_at_no_location_stays_and_goes_once_it_is_there(volume: Volume) -> None:
    memory = Memory()
    away = Gone(memory)
    days = volume.days(APP, 3)
    async with a_run(away, keep=1) as run:
        assert await run.unsaved(APP, days, days[1:]) == {one.path.name for one in days[1:]}
        assert [one["location"] for one in run.told.of("remote.unread")] == [memory.label]
    away.back()
    async with a_run(away, keep=1) as run:
        # Nothing is there yet, so that either would be kept there.
        assert await run.unsaved(APP, days, days[1:]) == {one.path.name for one in days[1:]}
        await run.ship(APP, days[0], days[1:])
    assert whole(memory) == {days[0].path.name}
    async with a_run(away, keep=1) as run:
        assert await run.unsaved(APP, days, days[1:]) == set()


async def test_to_be_at_one_of_several_locations_is_enough(volume: Volume) -> None:
    one, two = Memory(label="memory://1/"), Memory(label="memory://2/")
    days = volume.days(APP, 3)
    async with a_run(one, keep=None) as run:
        await run.ship(APP, days[0], days[1:2])
    async with a_run(one, two, keep=None) as run:
        assert await run.unsaved(APP, days, days[1:]) == {days[2].path.name}
    async with a_run(Gone(two), one, keep=None) as run:
        assert await run.unsaved(APP, days, days[1:]) == {days[2].path.name}


async def test_a_copy_of_the_same_name_and_another_length_is_none_of_it(volume: Volume, locks: Path) -> None:
    """Another series's of the same second, or half of ours: neither may be counted, now or in a later run."""
    memory = Memory()
    new, old = volume.days(APP, 2)
    plant(memory, TWIN, timedelta(days=1), size=777)
    for _ in range(2):
        async with a_run(memory, keep=1, lock_folder=locks) as run:
            await run.ship(APP, None, [new, old])
            assert await run.unsaved(APP, [new, old], [old]) == set(), "a newer one is there"
        async with a_run(memory, keep=2, lock_folder=locks) as run:
            assert await run.unsaved(APP, [new, old], [old]) == {old.path.name}


async def test_a_copy_of_the_same_name_and_length_may_be_anothers_nevertheless(
    volume: Volume, locks: Path
) -> None:
    """As those of two servers' globals are, which begin in the same second and are as long."""
    memory = Memory()
    new, old = volume.days(APP, 2)
    plant(memory, TWIN, timedelta(days=1))
    plant(memory, TWIN, timedelta(days=2))
    assert len(memory.files[old.path.name]) == old.bytes
    async with a_run(memory, keep=9, lock_folder=locks) as run:
        assert await run.unsaved(APP, [new, old], [old]) == {old.path.name}


# --- retention there


async def test_the_same_retention_as_here(volume: Volume, locks: Path) -> None:
    memory = Memory()
    target = Watched(memory)
    days = volume.days(APP, 5)
    async with a_run(memory, keep=None, lock_folder=locks) as run:
        await run.ship(APP, days[0], days[1:])
    async with a_run(target, keep=3, lock_folder=locks) as run:
        (copied,) = await run.ship(APP, None, days)
    gone = [one.path.name for one in reversed(days[3:])]
    assert list(copied.removed) == gone
    assert target.deleted() == [part for name in gone for part in (name, name + ".json")], (
        "the data goes first"
    )
    assert whole(memory) == {one.path.name for one in days[:3]}
    assert [one["file"] for one in run.told.of("remote.pruned")] == gone


async def test_nothing_is_ever_removed_with_none(volume: Volume) -> None:
    memory = Memory()
    days = volume.days(APP, 5)
    async with a_run(memory, keep=None) as run:
        await run.ship(APP, days[0], days[1:])
    for name in list(memory.files):
        if "11-20" in name and name.endswith(".json"):
            del memory.files[name.removesuffix(".json")]
    before = dict(memory.files)
    async with a_run(memory, keep=None) as run:
        (copied,) = await run.ship(APP, None, days[:1])
    assert copied.removed == ()
    assert memory.files == before


async def test_rolling_tiers_go_by_the_date_since_there_are_no_folders(volume: Volume) -> None:
    memory = Memory()
    for age in range(70):
        plant(memory, APP, timedelta(days=age))
    new = volume.put(APP, NOW + timedelta(minutes=1))
    policy = Policy(keep={Tier.DAILY: 2, Tier.WEEKLY: 2, Tier.MONTHLY: 1})
    async with a_run(memory, keep=policy) as run:
        await run.ship(APP, new)
    days = {naming.parse_name(name)[1].strftime("%a %m-%d") for name in whole(memory)}  # type: ignore[index]
    assert days == {"Sun 11-22", "Sat 11-21", "Fri 11-20", "Sat 10-31"}
    assert len(whole(memory)) == 5, "two of one Sunday"


async def test_only_those_of_the_very_series_are_counted_and_removed(volume: Volume, locks: Path) -> None:
    """Another port, another place for the hyphen, another case: their files may have the same names."""
    memory = Memory()
    others = [
        TWIN,
        DatabaseSpec("db-app", 5432, "x"),
        DatabaseSpec("db", 5432, "app-x"),
        DatabaseSpec("db", 5432, "app_"),
        DatabaseSpec("DB", 5432, "app"),
        DatabaseSpec("xdb", 5432, "app"),
        DatabaseSpec("db", 5432, ""),
    ]
    theirs = {plant(memory, spec, timedelta(days=5, hours=n, minutes=age)) for n, spec in enumerate(others) for age in range(4)}  # fmt: skip
    ours = [plant(memory, APP, timedelta(days=age, seconds=9)) for age in range(2, 6)]
    new = volume.put(APP, NOW)
    async with a_run(memory, keep=2, lock_folder=locks) as run:
        (copied,) = await run.ship(APP, new)
    assert set(copied.removed) == set(ours[1:])
    assert whole(memory) == theirs | {new.path.name, ours[0]}


async def test_two_series_that_share_their_names_share_a_location_in_peace(
    tmp_path: Path, volume: Volume
) -> None:
    memory = Memory()
    other = Volume(tmp_path / "other job's")
    for age in range(6, -1, -1):
        at = NOW - timedelta(days=age)
        for spec, where, later in ((APP, volume, 0), (TWIN, other, 1)):
            new = where.put(spec, at + timedelta(seconds=later))
            async with a_run(memory, keep=3) as run:
                (copied,) = await run.ship(spec, new, where.series(spec)[1:4])
            assert copied.error == ""
    of = [manifest.from_json(memory.files[name + ".json"]).spec for name in whole(memory)]
    assert sorted(of) == [APP] * 3 + [TWIN] * 3


@pytest.mark.parametrize("size", [1000, 777])
async def test_a_backup_of_the_same_name_and_second_is_never_replaced_by_anothers(
    tmp_path: Path, volume: Volume, size: int
) -> None:
    memory = Memory()
    theirs = plant(memory, TWIN, timedelta(0), size)
    before = dict(memory.files)
    new, old = volume.days(APP, 2)
    assert new.path.name == theirs
    for _ in range(2):
        async with a_run(memory) as run:
            (copied,) = await run.ship(APP, new, [old])
            assert f"{theirs} is there already, and is a backup of db:5433/app" in copied.error
            assert "a folder of its own" in copied.hint
            assert {name: memory.files[name] for name in before} == before
            assert old.path.name in whole(memory), "the others go there all the same"
            assert await run.unsaved(APP, [new, old], [new]) == {theirs}


async def test_files_of_others_are_left_alone(volume: Volume) -> None:
    memory = Memory()
    name = name_of(APP, NOW - timedelta(days=30))
    foreign = {
        "notes.txt": b"x",
        name: b"of the bash tool",
        f"{name}.verified.json": b"{}",
        f"{name_of(APP, NOW - timedelta(days=31))}.json": b"no manifest",
        f"{name_of(APP, NOW - timedelta(days=32))}.json": manifest.to_json(
            proof(TWIN, name_of(APP, NOW - timedelta(days=32)), b"", NOW)
        ),
        f"{name_of(replace(APP, dbname='apple'), NOW - timedelta(days=30))}.12345678.part": b"x",
        f"{name}.1234567.part": b"x",
        f"{name}.part": b"x",
        ".in_progress": b"x",
    }
    memory.files |= foreign
    new = volume.put(APP, NOW)
    async with a_run(memory, keep=1) as run:
        await run.ship(APP, new)
    assert {found: memory.files.get(found) for found in foreign} == foreign


async def test_a_removal_that_was_cut_short_is_completed(volume: Volume) -> None:
    memory = Memory()
    name = plant(memory, APP, timedelta(days=3))
    del memory.files[name]
    new = volume.put(APP, NOW)
    async with a_run(memory) as run:
        await run.ship(APP, new)
    assert set(memory.files) == {new.path.name, new.path.name + ".json"}
    assert [one["file"] for one in run.told.of("remote.pruned")] == [name + ".json"]


async def test_a_manifest_whose_data_is_only_late_in_the_listing_stays(volume: Volume) -> None:
    memory = Memory()
    late = Late(memory)
    name = plant(memory, APP, timedelta(days=3))
    data = memory.files.pop(name)
    async with late.connect() as remote:
        await remote.list()
    memory.files[name] = data
    async with a_run(late) as run:
        await run.ship(APP, volume.put(APP, NOW))
    assert name in whole(memory)


async def test_what_killed_uploads_have_left_goes_after_a_week_unless_it_grows(volume: Volume) -> None:
    memory = Memory()
    old, young = (name_of(APP, NOW - timedelta(days=age)) for age in (8, 6))
    memory.parts = {
        f"{old}.01234567.part": b"x",
        f"{old}.json.01234567.part": b"x",
        f"{young}.01234567.part": b"x",
        f"{old}.89abcdef.part": b"it is being written",
    }

    class Growing(Honest):
        def around(self, remote: Remote) -> Remote:
            class Writing(_Through):
                async def size(self, name: str) -> int | None:
                    if name in memory.parts and "89abcdef" in name:
                        memory.parts[name] += b"more"
                    return await super().size(name)

            return Writing(remote)

    async with a_run(Growing(memory)) as run:
        await run.ship(APP, volume.put(APP, NOW))
    assert set(memory.parts) == {f"{young}.01234567.part", f"{old}.89abcdef.part"}


async def test_the_newest_copy_stays_even_if_none_is_to_be_kept(volume: Volume) -> None:
    memory = Memory()
    days = volume.days(APP, 3)
    async with a_run(memory, keep=0) as run:
        await run.ship(APP, days[0], days[1:])
    assert whole(memory) == {days[0].path.name}


async def test_nothing_is_removed_there_where_nothing_could_be_stored(volume: Volume) -> None:
    memory = Memory()
    for age in range(1, 5):
        plant(memory, APP, timedelta(days=age))
    before = dict(memory.files)
    async with a_run(Refusing(memory), keep=1) as run:
        (copied,) = await run.ship(APP, volume.put(APP, NOW))
    assert copied.error
    assert memory.files == before


async def test_a_removal_that_fails_is_a_warning(volume: Volume) -> None:
    class Keeping(Honest):
        def around(self, remote: Remote) -> Remote:
            liar = self

            class Lying(_Through):
                async def delete(self, name: str) -> None:
                    raise liar.broken("550 no right to delete")

            return Lying(remote)

    memory = Memory()
    plant(memory, APP, timedelta(days=1))
    new = volume.put(APP, NOW)
    async with a_run(Keeping(memory), keep=1) as run:
        (copied,) = await run.ship(APP, new)
    assert (copied.error, copied.removed) == ("", ())
    assert "no right to delete" in run.told.of("remote.not_pruned")[0]["error"]


# --- what is remembered


async def test_manifests_are_read_once_and_not_again_by_the_next_run(volume: Volume, locks: Path) -> None:
    memory = Memory()
    read: list[str] = []

    class Reading(Honest):
        def around(self, remote: Remote) -> Remote:
            class Lying(_Through):
                def get(self, name: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
                    read.append(name)
                    return super().get(name)

            return Lying(remote)

    theirs = [plant(memory, spec, timedelta(days=age, seconds=n)) for n, spec in enumerate((TWIN, APP)) for age in (2, 3)]  # fmt: skip
    new = volume.put(APP, NOW)
    async with a_run(Reading(memory), lock_folder=locks) as run:
        await run.ship(APP, new)
    assert sorted(read) == sorted(f"{name}.json" for name in theirs)
    read.clear()
    async with a_run(Reading(memory), lock_folder=locks) as run:
        await run.ship(APP, None, [new])
    assert read == []


@pytest.mark.parametrize(
    "harm",
    [
        b"",
        b"\xff\xfe\x00garbage\n",
        b"[" * 200_000,
        b'["a", [], {}, 1, 2]\n',
        b'{"a": 1}\n[1]\nnull\n5\n',
        b'[["unhashable"], 1, "h", 1, "d"]\n',
        None,
    ],
)
async def test_knowledge_that_is_lost_or_garbage_costs_time_and_nothing_else(
    volume: Volume, locks: Path, harm: bytes | None
) -> None:
    memory = Memory()
    days = volume.days(APP, 4)
    async with a_run(memory, keep=None, lock_folder=locks) as run:
        await run.ship(APP, days[0], days[1:])
    file = remembered(locks)
    assert file.stat().st_mode & 0o777 == 0o600
    file.unlink()
    if harm is None:
        os.mkfifo(file)
    else:
        file.write_bytes(harm)
    async with a_run(memory, keep=2, lock_folder=locks) as run:
        (copied,) = await run.ship(APP, None, days[:1])
    assert copied.error == ""
    assert whole(memory) == {one.path.name for one in days[:2]}


async def test_knowledge_that_was_cut_by_a_full_disk_goes_on_behind_the_cut(
    volume: Volume, locks: Path
) -> None:
    memory = Memory()
    days = volume.days(APP, 2)
    async with a_run(memory, lock_folder=locks) as run:
        await run.ship(APP, days[1])
    file = remembered(locks)
    whole_line = file.read_bytes()
    file.write_bytes(whole_line + whole_line.strip()[:-9])
    async with a_run(memory, lock_folder=locks) as run:
        await run.ship(APP, days[0])
    known = [json.loads(line)[0] for line in file.read_text().splitlines() if line.endswith("]")]
    assert known == [days[1].path.name, days[0].path.name]


async def test_what_is_wrongly_known_removes_nothing_of_anothers(volume: Volume, locks: Path) -> None:
    memory = Memory()
    theirs = [plant(memory, TWIN, timedelta(days=age, seconds=1)) for age in range(2, 6)]
    new = volume.put(APP, NOW)
    async with a_run(memory, lock_folder=locks) as run:
        await run.ship(APP, new)
    file = remembered(locks)
    file.write_text(file.read_text().replace("5433", "5432"))
    async with a_run(memory, keep=1, lock_folder=locks) as run:
        (copied,) = await run.ship(APP, None, [new])
    assert copied.removed == ()
    assert set(theirs) <= whole(memory)


async def test_what_is_remembered_of_copies_that_are_gone_is_forgotten(volume: Volume, locks: Path) -> None:
    memory = Memory()
    names = [plant(memory, APP, timedelta(days=1, seconds=age)) for age in range(20)]
    new = volume.put(APP, NOW)
    async with a_run(memory, keep=1, lock_folder=locks) as run:
        await run.ship(APP, new)
    file = remembered(locks)
    assert all(name in file.read_text() for name in names)
    plant(memory, TWIN, timedelta(days=2))
    async with a_run(memory, keep=1, lock_folder=locks) as run:
        await run.ship(APP, None, [new])
    assert not any(name in file.read_text() for name in names)
    assert new.path.name in file.read_text()


# --- many runs


@pytest.mark.parametrize("seed", range(8))
async def test_through_many_days_of_trouble_nothing_that_is_wanted_is_lost(
    tmp_path: Path, locks: Path, seed: int
) -> None:
    """Two jobs, whose files have the same names, store at one location that is away, lies and lags."""
    luck = random.Random(seed)
    memory = Memory(resumes=luck.random() < 0.5)
    volumes = {spec: Volume(tmp_path / f"{spec.port}") for spec in (APP, TWIN)}
    lock_folders = {spec: locks / f"{spec.port}" for spec in volumes}
    for folder in lock_folders.values():
        folder.mkdir()
    made: dict[DatabaseSpec, list[str]] = {APP: [], TWIN: []}
    keep_here, keep_there = luck.choice([(2, 4), (3, 3), (4, 2), (1, 1)])
    for age in range(25, -1, -1):
        now = NOW - timedelta(days=age)
        for spec, volume in volumes.items():
            # At times, both begin in the very same second.
            second = timedelta(seconds=luck.choice([0, spec.port - 5432]))
            new = volume.put(spec, now + second, luck.randrange(100, 3000))
            made[spec].append(new.path.name)
            trouble: Honest = luck.choice(
                [
                    Honest(memory),
                    Honest(memory),
                    Gone(memory, answers=luck.randrange(30)),
                    Breaking(memory, times=luck.randrange(4), after=luck.randrange(3000)),
                    Complaining(memory, times=luck.randrange(4)),
                    Short(memory, times=luck.randrange(4)),
                    Idle(memory, times=luck.randrange(3)),
                    Late(memory),
                ]
            )
            if luck.random() < 0.1:
                remembered(lock_folders[spec]).unlink() if any(lock_folders[spec].iterdir()) else None
            local = volume.series(spec)
            async with a_run(trouble, keep=keep_there, lock_folder=lock_folders[spec], retries=1, now=now + timedelta(minutes=1)) as run:  # fmt: skip
                unwanted = local[keep_here:]
                unsaved = await run.unsaved(spec, local, unwanted)
                for one in unwanted:
                    if one.path.name not in unsaved:
                        one.path.unlink()
                        one.path.with_name(one.path.name + ".json").unlink()
                await run.ship(spec, new, local[1:])
        there = whole(memory)
        for spec, volume in volumes.items():
            own = {name for name in there if manifest.from_json(memory.files[name + ".json"]).spec == spec}
            somewhere = own | {one.path.name for one in volume.series(spec)}
            assert set(made[spec][-keep_there:]) <= somewhere
            assert set(made[spec][-keep_here:]) <= somewhere
    for spec, volume in volumes.items():
        async with a_run(memory, keep=keep_there, lock_folder=lock_folders[spec]) as run:
            await run.ship(spec, None, volume.series(spec))
    names = [*made[APP][-keep_there:], *made[TWIN][-keep_there:]]
    assert {name for name in names if names.count(name) == 1} <= whole(memory)
    assert len(whole(memory)) <= 2 * keep_there


def test_the_tests_mean_what_they_say(volume: Volume) -> None:
    assert name_of(APP, NOW) == name_of(TWIN, NOW)
    assert volume.put(APP, NOW).proven
    assert isinstance(volume.put(APP, NOW), Backup)
    assert ALWAYS > 1000
