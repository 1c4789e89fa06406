"""A run of verifications: turns, what is tried once more, the budget, and what it all comes to."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from asyncbackup import configuration
from asyncbackup.conf import Conf
from asyncbackup.errors import Exit
from asyncbackup.events import Event, Events
from asyncbackup.model import Backup, DatabaseSpec, Level, Verdict, Verification
from asyncbackup.proof import trial, verify
from asyncbackup.proof.verify import State, VerifyReport
from tests.volumes import GLOBALS, NOW, Volume, days


class Stage:
    """Stands for the servers: tells what came of each trial, and watches who is there with whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 0.0
        self.seconds = 1.0
        self.verdicts: dict[str, list[tuple[Verdict, bool]]] = {}
        """By database: each try's verdict, and whether another may have caused it."""
        self.turns: list[str] = []
        self.together: dict[str, list[int]] = {}
        self._there: set[str] = set()
        monkeypatch.setattr(trial, "verify", self.verify)
        monkeypatch.setattr(verify, "time", SimpleNamespace(monotonic=lambda: self.clock))

    async def verify(self, under_way: trial.Trial, tools: trial.Tools) -> Verification:
        name = name_of(under_way.backup)
        self.turns.append(name)
        self._there.add(name)
        await asyncio.sleep(0)
        self.together.setdefault(name, []).append(len(self._there))
        await asyncio.sleep(0)
        self._there.remove(name)
        self.clock += self.seconds
        verdict, under_way.disturbed = self.verdicts.get(name, [(Verdict.GOOD, False)]).pop(0)
        return Verification(
            name=under_way.backup.path.name, host="h", port=5432, dbname=name, verdict=verdict, level=Level.ROWS,
            proven=True, run_id=tools.run_id, started_at=NOW, seconds=1, load_seconds=1,
            bytes=under_way.backup.bytes, sha256="0" * 64, server_version="15.1", rows=10,
        )  # fmt: skip


def name_of(backup: Backup) -> str:
    assert backup.spec is not None
    return backup.spec.dbname or "@globals"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = Volume(tmp_path / "backups", tmp_path / "own")
    specs = [DatabaseSpec("h", 5432, name) for name in "abcde"]
    made.conf = Conf(databases=tuple(specs))
    for age, spec in enumerate(specs):
        made.verified(made.put(spec, days(1)), days(9 - age))  # `a` was verified longest ago
    return made


async def run(volume: Volume, *only: DatabaseSpec, **variables: str) -> tuple[VerifyReport, list[Event]]:
    events: list[Event] = []
    environ = {"BACKUP_DIR": f"{volume.root}", "VERIFY_DIR": f"{volume.own}", "PATH": "", **variables}
    report = await verify.run(
        configuration.load(environ),
        volume.conf,
        environ,
        Events(events.append),
        only=only,
        required=volume.conf.databases,
        now=lambda: NOW,
    )
    return report, events


def named(events: Iterable[Event], name: str) -> list[str]:
    return [event.fields["dbname"] for event in events if event.name == name]


def states(report: VerifyReport) -> dict[str, State]:
    return {one.spec.dbname or "@globals": one.state for one in report.results if one.spec}


async def test_the_longest_ago_first_and_so_many_at_a_time(volume: Volume, stage: Stage) -> None:
    report, events = await run(volume, MAX_CONCURRENT_VERIFICATIONS="2")
    assert stage.turns == ["a", "b", "c", "d", "e"]
    assert max(max(there) for there in stage.together.values()) == 2
    assert sorted(named(events, "verify.finished")) == ["a", "b", "c", "d", "e"]
    assert verify.exit_code(report) is Exit.OK


async def test_roles_are_restored_alone(volume: Volume, stage: Stage) -> None:
    volume.put(GLOBALS, days(1))
    await run(volume, MAX_CONCURRENT_VERIFICATIONS="3")
    assert stage.turns[0] == "@globals"
    assert stage.together["@globals"] == [1]


async def test_the_budget_postpones_politely(volume: Volume, stage: Stage) -> None:
    report, events = await run(volume, MAX_CONCURRENT_VERIFICATIONS="1", VERIFY_BUDGET="1.5s")
    assert stage.turns == ["a", "b"], "what has begun is seen to its end"
    assert states(report) == {
        "a": State.GOOD, "b": State.GOOD, "c": State.POSTPONED, "d": State.POSTPONED, "e": State.POSTPONED,
    }  # fmt: skip
    assert named(events, "verify.postponed") == ["c", "d", "e"]
    assert verify.exit_code(report) is Exit.OK
    stage.turns.clear()
    stage.clock = 0.0
    await run(volume, MAX_CONCURRENT_VERIFICATIONS="1", VERIFY_BUDGET="1.5s")
    assert stage.turns == ["c", "d"], "they come first the next time"


async def test_what_another_may_have_caused_is_tried_once_more_alone(volume: Volume, stage: Stage) -> None:
    stage.verdicts = {
        "a": [(Verdict.UNVERIFIED, True), (Verdict.GOOD, False)],
        "b": [(Verdict.BAD, True), (Verdict.BAD, True)],
        "c": [(Verdict.UNVERIFIED, True), (Verdict.UNVERIFIED, True)],
        "d": [(Verdict.UNVERIFIED, False)],
    }
    report, events = await run(volume, MAX_CONCURRENT_VERIFICATIONS="5")
    assert stage.turns[:5] == ["a", "b", "c", "d", "e"]
    assert sorted(stage.turns[5:]) == ["a", "b", "c"]
    assert [stage.together[name][1] for name in "abc"] == [1, 1, 1]
    assert sorted(named(events, "verify.again")) == ["a", "b", "c"]
    assert states(report) == {
        "a": State.GOOD, "b": State.BAD, "c": State.UNVERIFIED, "d": State.UNVERIFIED, "e": State.GOOD,
    }  # fmt: skip
    ended = [
        event.fields["dbname"]
        for event in events
        if event.name in {"verify.finished", "verify.failed", "verify.impossible"}
    ]
    assert sorted(ended) == ["a", "b", "c", "d", "e"], "one end for each"
    assert verify.exit_code(report) is Exit.PARTIAL


async def test_alone_there_is_nobody_to_blame(volume: Volume, stage: Stage) -> None:
    stage.verdicts = {"a": [(Verdict.UNVERIFIED, True)]}
    await run(volume, DatabaseSpec("h", 5432, "a"), MAX_CONCURRENT_VERIFICATIONS="4")
    assert stage.turns.count("a") == 1
    stage.verdicts = {"a": [(Verdict.UNVERIFIED, True), (Verdict.GOOD, False)]}
    report, _ = await run(volume, MAX_CONCURRENT_VERIFICATIONS="1")
    assert stage.turns.count("a") == 3, "one after the other, they still share a server"
    assert states(report)["a"] is State.GOOD


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([State.GOOD], Exit.OK),
        ([State.GOOD, State.POSTPONED], Exit.OK),
        ([State.GOOD, State.BAD], Exit.PARTIAL),
        ([State.GOOD, State.MISSING], Exit.PARTIAL),
        ([State.GOOD, State.UNVERIFIED], Exit.PARTIAL),
        ([State.UNVERIFIED], Exit.PARTIAL),
        ([State.UNVERIFIED, State.BAD], Exit.FAILED),
        ([State.BAD], Exit.FAILED),
        ([State.MISSING], Exit.FAILED),
        ([State.BAD, State.MISSING], Exit.FAILED),
        ([State.POSTPONED], Exit.FAILED),
        ([], Exit.FAILED),
    ],
)
def test_what_a_run_comes_to(found: list[State], code: Exit) -> None:
    results = tuple(verify.Result(label="", state=state) for state in found)
    report = VerifyReport(run_id="", started_at=NOW, seconds=0, level=Level.ROWS, results=results)
    assert verify.exit_code(report) is code


async def test_where_time_is_short_roles_do_not_take_the_turn_of_what_was_verified_longer_ago(
    volume: Volume, stage: Stage
) -> None:
    volume.verified(volume.put(GLOBALS, days(1)), days(2))
    await run(volume, MAX_CONCURRENT_VERIFICATIONS="1", VERIFY_BUDGET="1.5s")
    assert stage.turns == ["a", "b"]
    stage.turns.clear()
    stage.clock = 0.0
    await run(volume, MAX_CONCURRENT_VERIFICATIONS="1")
    assert stage.turns[0] == "@globals", "else they come first, to a server where nobody has made any"
