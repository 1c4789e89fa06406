"""Compare ways to restore one big database: see README.md."""

import argparse
import asyncio
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs from a clone as it stands

from asyncbackup.errors import ClientError
from bench import baselines, fleetdata, measure, report, server
from bench.baselines import Job
from bench.fleet import first_line, interrupted, names, numbers, say
from bench.measure import CommandFailedError, Run, Spread
from bench.report import MB, Record
from bench.server import Target

PSQL = "psql"
_RESTORED = f"{fleetdata.PREFIX}restored"
_HERE = Path(__file__).resolve().parent
# As a server has them that keeps its data; only that nothing waits for this machine's disk.
_SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "10",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumps:
    """One database, dumped in every format that is compared."""

    target: Target
    source: str
    sql_bytes: int
    plain: Path
    """A backup of asyncbackup's, which is SQL in a gzip file."""
    custom: Path
    directory: Path
    folder: Path

    def psql(self, *options: str) -> list[str]:
        """Return what feeds the plain dump to psql, in a shell that notices when either fails."""
        command = ["psql", *self.target.options, "-XqAt", "-v", "ON_ERROR_STOP=1", *options, "-d", _RESTORED]
        script = f"gunzip -c {shlex.quote(str(self.plain))} | {shlex.join(command)} > /dev/null"
        return ["bash", "-o", "pipefail", "-c", script]

    def pg_restore(self, path: Path) -> list[str]:
        """Return pg_restore with two jobs."""
        return ["pg_restore", *self.target.options, "-j2", "-d", _RESTORED, str(path)]

    def ours(self, jobs: int) -> list[str]:
        """Return what loads the plain dump over so many connections."""
        target = self.target
        where = [target.host, str(target.port), target.user, _RESTORED, str(jobs)]
        return [sys.executable, str(_HERE / "over_connections.py"), str(self.plain), *where]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to restore the database."""

    name: str
    what: str
    command: Callable[[Dumps], list[str]]


def contenders(jobs: Sequence[int]) -> list[Contender]:
    """Return all of them, the baseline first."""
    return [
        Contender(name=PSQL, what="gunzip -c | psql", command=lambda dumps: dumps.psql()),
        Contender(name="psql -1", what="the same in one transaction", command=lambda dumps: dumps.psql("-1")),
        Contender(
            name="pg_restore -Fc",
            what="pg_restore -j2 of what pg_dump -Fc has written",
            command=lambda dumps: dumps.pg_restore(dumps.custom),
        ),
        Contender(
            name="pg_restore -Fd",
            what="pg_restore -j2 of what pg_dump -Fd has written",
            command=lambda dumps: dumps.pg_restore(dumps.directory),
        ),
        *(
            Contender(
                name=f"asyncbackup {count}",
                what=f"asyncbackup's load over {count} connection{'s' if count > 1 else ''}",
                command=lambda dumps, count=count: dumps.ours(count),  # type: ignore[misc]
            )
            for count in jobs
        ),
    ]


class NotRestoredError(Exception):
    """What a contender has restored is not the database; there is nothing to measure."""


@contextmanager
def fresh(dumps: Dumps) -> Iterator[None]:
    """Make an empty database, and drop it; what the one before has left to write is not this one's burden."""
    dumps.target.psql("postgres", f'CREATE DATABASE "{_RESTORED}" TEMPLATE template0')
    dumps.target.psql("postgres", "CHECKPOINT")
    try:
        yield
    finally:
        dumps.target.psql("postgres", f'DROP DATABASE "{_RESTORED}" WITH (FORCE)')


def once(dumps: Dumps, who: Contender) -> Run:
    """Restore once."""
    output = dumps.folder / "output"
    output.mkdir(exist_ok=True)
    return measure.run(
        who.command(dumps),
        environment=dumps.target.environment,
        stdin=None,
        log=dumps.folder / "log",
        output=output,
        server_pid=dumps.target.pid,
    )


def contents(target: Target, dbname: str) -> tuple[str, str]:
    """Return a database's schema, as pg_dump writes it, and rows and digest of each table."""
    command = [str(target.bindir / "pg_dump"), *target.options, "--schema-only", "--", dbname]
    done = subprocess.run(command, env=target.environment, text=True, capture_output=True, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
    tables = target.psql(
        dbname, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY 1"
    )
    digests = [
        target.psql(dbname, f"SELECT '{table}', count(*), sum(hashtextextended(t::text, 0)) FROM {table} t")
        for table in tables.splitlines()
    ]
    return "\n".join(lines), "\n".join(digests)


def check(dumps: Dumps, chosen: Sequence[Contender]) -> None:
    """Let each contender restore once, and compare with the source, or raise."""
    expected = contents(dumps.target, dumps.source)
    for who in chosen:
        with fresh(dumps):
            once(dumps, who)
            if contents(dumps.target, _RESTORED) != expected:
                raise NotRestoredError(f"{who.name} has not restored what was dumped")
    say("every contender restores what was dumped")


def rounds(dumps: Dumps, chosen: Sequence[Contender], count: int) -> list[Record]:
    """Run all of them in turn, so often; each round begins with another one."""
    records = []
    for turn in range(1, count + 1):
        first = (turn - 1) % len(chosen)
        for who in [*chosen[first:], *chosen[:first]]:
            with fresh(dumps):
                run = once(dumps, who)
            records.append(Record(contender=who.name, concurrency=1, round=turn, run=run))
            say(
                f"round {turn}: {who.name}: {run.wall:.2f} s wall, {run.cpu:.2f} s CPU, the server"
                f" {run.server_cpu:.2f}, others used {records[-1].other_load:.0%} of the machine"
            )
    return records


def work(run: Run) -> float:
    """Return the CPU time of client and server."""
    return run.cpu + (run.server_cpu or 0)


def comparison(records: Sequence[Record], chosen: Sequence[Contender]) -> str:
    """Every contender beside the baseline."""
    baseline = [one for one in records if one.contender == PSQL]
    rows = [
        ["", "wall s", "times as fast", "client CPU s", "server CPU s", "CPU x psql", "peak MB", "other load"]
    ]
    for who in chosen:
        mine = [one for one in records if one.contender == who.name]
        rows.append(
            [
                who.name,
                report.spread(mine, lambda run: run.wall).text(),
                report.ratio(baseline, mine, lambda run: run.wall).text(2) if baseline else "-",
                report.spread(mine, lambda run: run.cpu).text(),
                report.spread(mine, lambda run: run.server_cpu or 0).text(),
                report.ratio(mine, baseline, work).text(2) if baseline else "-",
                report.spread(mine, lambda run: run.tree_rss).text(0, MB),
                Spread.of([one.other_load for one in mine]).text(0, 0.01) + " %",
            ]
        )
    return "\n".join([report.table(rows), "", *(f"- `{who.name}`: {who.what}" for who in chosen)])


def summary(records: Sequence[Record], chosen: Sequence[Contender]) -> list[dict[str, object]]:
    """Return median and spread of the values, and of the ratios by round."""
    baseline = [one for one in records if one.contender == PSQL]
    result: list[dict[str, object]] = []
    for who in chosen:
        mine = [one for one in records if one.contender == who.name]
        entry: dict[str, object] = {"contender": who.name}
        entry["wall"] = asdict(report.spread(mine, lambda run: run.wall))
        entry["cpu"] = asdict(report.spread(mine, work))
        if baseline:
            entry["times_as_fast"] = asdict(report.ratio(baseline, mine, lambda run: run.wall))
            entry["cpu_to_psql"] = asdict(report.ratio(mine, baseline, work))
        result.append(entry)
    return result


def dumped(options: argparse.Namespace, target: Target, folder: Path) -> Dumps:
    """Build the database, and dump it in every format."""
    (member,) = fleetdata.plan("big", 1, options.big_mb)
    fleetdata.build(target, [member])
    say("dumping it in every format …")
    job = Job(target=target, databases=[member.name], concurrency=1)
    backup = folder / "backup"
    backup.mkdir()
    baselines.ours().start(job, backup)
    found = [
        path
        for path in backup.rglob("*.sql.gz.json")
        if json.loads(path.read_text())["dbname"] == member.name
    ]
    custom, directory = folder / "custom", folder / "directory"
    for kind, path in (("-Fc", custom), ("-Fd", directory)):
        command = ["pg_dump", *target.options, kind, "-f", str(path), "--", member.name]
        subprocess.run(command, env=target.environment, check=True)
    return Dumps(
        target=target,
        source=member.name,
        sql_bytes=int(json.loads(found[0].read_text())["sql_bytes"]),
        plain=found[0].with_suffix(""),
        custom=custom,
        directory=directory,
        folder=folder,
    )


async def measured(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Make the dumps, see that all can restore them, and time that; nothing else is to run meanwhile."""
    async with server.own(folder, options.bindir, _SETTINGS) as target:
        dumps = dumped(options, target, folder)
        say(f"{dumps.sql_bytes / MB:,.0f} MB of SQL, {dumps.plain.stat().st_size / MB:,.0f} MB compressed")
        chosen = [who for who in contenders(options.jobs) if not options.only or who.name in options.only]
        check(dumps, chosen)
        records = rounds(dumps, chosen, options.rounds)
        text = comparison(records, chosen)
        print(text)
        if disturbed := report.noise(records):
            print(f"\n{disturbed}")
        return {
            "sql_bytes": dumps.sql_bytes,
            "machine": report.machine(),
            "server": target.psql("postgres", "SHOW server_version"),
            "client": first_line([f"{target.bindir / 'psql'}", "--version"]),
            "options": vars(options),
            "table": text,
            "summary": summary(records, chosen),
            "runs": report.plain(records),
        }


def arguments() -> argparse.Namespace:
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    add = parser.add_argument
    add("--rounds", type=int, default=3)
    add("--jobs", type=numbers, default=[1, 2, 4], help="connections that asyncbackup loads over")
    add("--big-mb", type=int, default=466, help="size of the database, in MB of SQL text")
    add("--only", type=names, default=[], help="contenders that take part, comma-separated; default all")
    add("--json", type=Path, help="write all figures to this file")
    add("--workdir", type=Path, help="where dumps and the server go; default a temporary folder")
    add("--bindir", type=Path, help="PostgreSQL's programs; default the newest")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if missing := [name for name in ("bash", "gunzip") if not shutil.which(name)]:
        raise SystemExit(f"there is no {missing[0]} on this machine")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.workdir) as name:
        try:
            result = asyncio.run(measured(options, Path(name)))
        except (CommandFailedError, ClientError, NotRestoredError) as error:
            raise SystemExit(f"FAILED: {error}") from error
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
