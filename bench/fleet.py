"""Compare asyncbackup with what one would do without it, on a fleet of databases: see README.md."""

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs from a clone as it stands

from asyncbackup.errors import ClientError
from bench import baselines, contents, fleetdata, report, server
from bench.baselines import FLOOR, OURS, Contender, Job
from bench.measure import CommandFailedError
from bench.report import Record
from bench.server import Target

RSS_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every scenario needs."""

    options: argparse.Namespace
    target: Target
    folder: Path

    def once(self, contender: Contender, job: Job, turn: int, group: str = "") -> Record:
        """Run a contender once, in a folder that is gone afterwards."""
        with self.scratch() as scratch:
            measured = contender.start(job, scratch)
        record = Record(
            contender=contender.name, concurrency=job.concurrency, round=turn, run=measured, group=group
        )
        at_once = f", {job.concurrency} at once" if len(self.options.concurrency) > 1 else ""
        say(
            f"round {turn}: {contender.name}{at_once}: {measured.wall:.2f} s wall, {measured.cpu:.2f} s CPU"
            f" (own {measured.own_cpu:.2f}), {measured.output / 1e6:.0f} MB, others used"
            f" {record.other_load:.0%} of the machine"
        )
        return record

    def rounds(self, contenders: Sequence[Contender], jobs: Sequence[Job]) -> list[Record]:
        """Run all of them in turn, as often as asked for; each round begins with another one."""
        pairs = [(contender, job) for job in jobs for contender in contenders]
        records = []
        for turn in range(1, self.options.rounds + 1):
            first = (turn - 1) % len(pairs)
            records += [self.once(who, job, turn) for who, job in pairs[first:] + pairs[:first]]
        return records

    def job(self, databases: Sequence[str], concurrency: int | None = None) -> Job:
        """Return a job at the first concurrency asked for, or at another one."""
        at_once = concurrency or self.options.concurrency[0]
        return Job(target=self.target, databases=databases, concurrency=at_once)

    def check(self, databases: Sequence[str]) -> int:
        """Compare every backup with pg_dump's own output; return the bytes of SQL, 0 if unknown."""
        if self.options.skip_check:
            say("NOT CHECKED, as asked for: the figures below are of backups that nobody compared")
            return 0
        say(f"reading {len(databases)} databases with plain pg_dump …")
        expected = contents.reference(self.target, databases)
        total = sum(text.bytes for text in expected.values())
        if self.takes_part(OURS):
            say("comparing asyncbackup's backups with that …")
            with self.scratch() as scratch:
                baselines.ours().start(self.job(databases), scratch)
                contents.check(scratch / "output", expected)
            say("every backup holds what pg_dump writes, and its manifest is right")
        say(f"{len(databases)} databases, {total / 1e6:,.0f} MB of SQL")
        return total

    def takes_part(self, name: str) -> bool:
        """Whether a contender was asked for."""
        return not self.options.only or name in self.options.only

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Lend a folder."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fleet(bench: Bench, databases: Sequence[str]) -> dict[str, object]:
    """Compare with every baseline, or several concurrencies with each other."""
    sql_bytes = bench.check(databases)
    contenders = [who for who in baselines.contenders() if bench.takes_part(who.name)]
    concurrencies = bench.options.concurrency
    if len(concurrencies) > 1:
        contenders = [who for who in contenders if who.name in {OURS, FLOOR}]
        records = bench.rounds(contenders, [bench.job(databases, at_once) for at_once in concurrencies])
        text = report.sweep(records, sql_bytes)
    else:
        for missing in [who for who in contenders if who.missing]:
            say(f"SKIPPED {missing.name}: there is no {missing.missing} on this machine")
        contenders = [who for who in contenders if not who.missing]
        records = bench.rounds(contenders, [bench.job(databases)])
        text = report.comparison(records, contenders, sql_bytes)
    return finish(records, text, sql_bytes)


def empty(bench: Bench, databases: Sequence[str]) -> dict[str, object]:
    """Compare with nothing but pg_dump where there is nothing to dump: what a database costs us."""
    sql_bytes = bench.check(databases)
    contenders = [who for who in (baselines.ours(), baselines.plain()) if bench.takes_part(who.name)]
    records = bench.rounds(contenders, [bench.job(databases)])
    text = report.comparison(records, contenders, 0)
    if len(contenders) == 2:
        ours, plain = ([r for r in records if r.contender == who.name] for who in contenders)
        wall = report.ratio(ours, plain, lambda run: run.wall)
        own = report.spread(ours, lambda run: run.own_cpu)
        text += (
            f"\nasyncbackup's own process takes {own.text(1, len(databases) / 1000)} CPU-ms for a database"
        )
        text += f"\nasyncbackup takes {wall.text(2)} times the wall time of plain pg_dump"
        if ours[0].run.server_cpu is not None:
            work = report.ratio(ours, plain, lambda run: run.cpu + (run.server_cpu or 0))
            text += f", and with the server {work.text(2)} times the CPU time"
    return finish(records, text, sql_bytes)


def rss(bench: Bench, databases: Sequence[str]) -> dict[str, object]:
    """Dump many at once, larger ones each time: our memory should not grow with them."""
    sizes: dict[str, int] = {}
    records = []
    by_size: dict[str, list[str]] = {}
    for name in databases:
        by_size.setdefault(name.rsplit("_", 1)[0].removeprefix(fleetdata.PREFIX), []).append(name)
    for group, names in by_size.items():
        sizes[f"{len(names)} x {group}"] = bench.check(names)
    for turn in range(1, bench.options.rounds + 1):
        for group, names in by_size.items():
            job = bench.job(names, RSS_AT_ONCE)
            records.append(bench.once(baselines.ours(), job, turn, f"{len(names)} x {group}"))
    return finish(records, report.memory(records, sizes), sum(sizes.values()))


def finish(records: list[Record], text: str, sql_bytes: int) -> dict[str, object]:
    """Print the table and return all of it."""
    print(text)
    if disturbed := report.noise(records):
        print(f"\n{disturbed}")
    return {
        "sql_bytes": sql_bytes,
        "table": text,
        "summary": report.summary(records),
        "runs": report.plain(records),
    }


SCENARIOS = {"fleet": fleet, "empty": empty, "rss": rss}


def members(options: argparse.Namespace) -> list[fleetdata.Member]:
    """Return the databases that a scenario is made of, the largest first."""
    match options.scenario:
        case "fleet":
            return [
                *fleetdata.plan("big", options.big, options.big_mb, options.prose),
                *fleetdata.plan("small", options.small, options.small_mb, options.prose),
            ]
        case "empty":
            return fleetdata.plan("empty", options.empty, 0)
        case _:
            sizes = options.rss_mb
            return [each for size in sizes for each in fleetdata.plan("rss", RSS_AT_ONCE, size)]


def numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return values


def names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def arguments() -> argparse.Namespace:
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    add = parser.add_argument
    add("--scenario", choices=SCENARIOS, default="fleet")
    add("--rounds", type=int, default=3)
    add("--concurrency", type=numbers, default=[4], help="dumps at once; several, as 1,2,4,8: compare them")
    add("--only", type=names, default=[], help="contenders that take part, comma-separated; default all")
    add("--skip-check", action="store_true", help="don't compare contents first: for data that changes")
    add("--json", type=Path, help="write all figures to this file")
    add("--workdir", type=Path, help="where backups and the server of our own go; default a temporary folder")
    add("--bindir", type=Path, help="PostgreSQL's programs; default the newest, or the server's own major")
    built = parser.add_argument_group("the fleet that is built (sizes in MB of SQL text)")
    add = built.add_argument
    add("--small", type=int, default=40)
    add("--small-mb", type=int, default=23)
    add("--big", type=int, default=2)
    add("--big-mb", type=int, default=466)
    add("--prose", type=int, default=1, help="sentences for each customer; 40 makes a fleet of mostly prose")
    add("--empty", type=int, default=1000, help="databases of the scenario empty")
    add("--rss-mb", type=numbers, default=[5, 20, 80], help="sizes of the scenario rss")
    yours = parser.add_argument_group("your own server, instead of one started for this")
    add = yours.add_argument
    add("--host")
    add("--port", type=int, default=5432)
    add("--user", default="postgres")
    add("--passfile", type=Path, help="in libpq's format; default libpq's own ways")
    add("--databases", type=names, help="which to dump; default all; they are only read")
    add("--build", action="store_true", help="build the fleet there, and drop it at the end")
    return parser.parse_args()


@asynccontextmanager
async def prepared(options: argparse.Namespace, folder: Path) -> AsyncIterator[tuple[Target, list[str]]]:
    """Lend a server and the names of the databases to dump, the largest first."""
    wanted = members(options)
    if options.host is None:
        async with server.own(folder, options.bindir) as target:
            fleetdata.build(target, wanted)
            yield target, [member.name for member in wanted]
        return
    target = server.connect(options.host, options.port, options.user, options.passfile, options.bindir)
    if not options.build:
        present = target.databases()
        if unknown := set(options.databases or ()) - set(present):
            raise SystemExit(f"not on the server: {', '.join(sorted(unknown))}")
        yield target, [name for name in present if name in (options.databases or present)]
        return
    made = fleetdata.build(target, wanted)
    try:
        yield target, [member.name for member in wanted]
    finally:
        fleetdata.drop(target, made)


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run a scenario; nothing else is to run meanwhile, hence it blocks the event loop."""
    async with prepared(options, folder) as (target, databases):
        bench = Bench(options=options, target=target, folder=folder)
        result = SCENARIOS[options.scenario](bench, databases)
        client = [str(target.bindir / "pg_dump"), "--version"]
        return {
            "scenario": options.scenario,
            "databases": len(databases),
            "machine": report.machine(),
            "server": target.psql("postgres", "SHOW server_version"),
            "client": first_line(client),
            "options": {key: value for key, value in vars(options).items() if key != "passfile"},
            **result,
        }


def first_line(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.partition("\n")[0]


def main() -> None:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.workdir) as name:
        try:
            result = asyncio.run(measure(options, Path(name)))
        except (CommandFailedError, contents.ContentsDifferError, ClientError) as error:
            raise SystemExit(f"FAILED: {error}") from error
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=str) + "\n")


def interrupted(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
