"""Compare `asyncbackup verify` with what a shell script does, a server for each backup: see README.md."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from pwd import struct_passwd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs from a clone as it stands

from asyncbackup import configuration
from asyncbackup.errors import ClientError
from asyncbackup.model import Level
from asyncbackup.naming import RECORD
from asyncbackup.postgres.datadir import account_for
from bench import baselines, fleetdata, measure, proofs, report, server
from bench.baselines import Job
from bench.fleet import first_line, interrupted, numbers, say
from bench.measure import CommandFailedError, Run, Spread
from bench.report import MB, Record, Value

PER_SERVER = "per-server"
_HERE = Path(__file__).resolve().parent
_OWNER = "nobody"
_LOG = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Backups, largest first, and what it takes to verify them; the server they are of has ended."""

    backups: Sequence[Path]
    sql_bytes: int
    environment: Mapping[str, str]
    """The settings of a verification."""
    user: str
    account: struct_passwd | None
    """Whom servers run as, if we are root."""
    folder: Path

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Lend a folder through which the account can pass."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        folder.chmod(0o711)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    @contextmanager
    def owned(self, parent: Path | None = None) -> Iterator[Path]:
        """Lend a folder that is the account's own."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as name:
            if self.account:
                os.chown(name, self.account.pw_uid, self.account.pw_gid)
            yield Path(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to verify all backups, so many at once."""

    name: str
    concurrency: int
    what: str
    start: Callable[[Fleet, Path], Run]


def per_server(fleet: Fleet, folder: Path) -> Run:
    """Verify as per_server.sh does; its servers are daemons, whose cost only a reaper gets to know."""
    prefix = ""
    if fleet.account:
        uid, gid = fleet.account.pw_uid, fleet.account.pw_gid
        prefix = f"setpriv --reuid={uid} --regid={gid} --clear-groups --"
    with fleet.owned(folder) as place, fleet.owned() as sockets:  # a socket's path must be short
        script = [f"{_HERE / 'per_server.sh'}", f"{place}", f"{sockets}", fleet.user]
        return measure.run(
            [sys.executable, "-I", "-S", f"{_HERE / 'reaper.py'}", "bash", *script, *map(str, fleet.backups)],
            environment={**fleet.environment, "AS": prefix, "LC_ALL": "C"},
            stdin=None,
            log=folder / _LOG,
            output=place,
        )


def ours(level: Level, at_once: int) -> Callable[[Fleet, Path], Run]:
    """Return what runs `asyncbackup verify all`, as if nothing had been verified before."""

    def start(fleet: Fleet, folder: Path) -> Run:
        for record in Path(fleet.environment["BACKUP_DIR"]).rglob(f"*{RECORD}"):
            record.unlink()
        place = folder / "servers"
        chosen = {
            "VERIFY_DIR": f"{place}",
            "VERIFY_LEVEL": level.value,
            "MAX_CONCURRENT_VERIFICATIONS": f"{at_once}",
        }
        return measure.run(
            baselines.command("verify", "all"),
            environment={**fleet.environment, **chosen},
            stdin=None,
            log=folder / _LOG,
            output=place,
        )

    return start


def contenders(options: argparse.Namespace) -> list[Contender]:
    """Return all of them, the baseline first."""
    return [
        Contender(
            name=PER_SERVER,
            concurrency=1,
            what="one after the other: initdb, start, gunzip | psql, count tables, stop, delete",
            start=per_server,
        ),
        *(
            Contender(
                name=f"verify {level.value}",
                concurrency=at_once,
                what=f"asyncbackup verify all, VERIFY_LEVEL={level.value}",
                start=ours(level, at_once),
            )
            for at_once in options.concurrency
            for level in options.levels
        ),
    ]


def rounds(fleet: Fleet, chosen: Sequence[Contender], count: int) -> list[Record]:
    """Run all of them in turn, so often; each round begins with another one."""
    records = []
    for turn in range(1, count + 1):
        first = (turn - 1) % len(chosen)
        for who in [*chosen[first:], *chosen[:first]]:
            with fleet.scratch() as folder:
                run = who.start(fleet, folder)
            records.append(Record(contender=who.name, concurrency=who.concurrency, round=turn, run=run))
            say(
                f"round {turn}: {who.name}, {who.concurrency} at once: {run.wall:.2f} s wall,"
                f" {run.cpu:.2f} s CPU (own {run.own_cpu:.2f}), others used"
                f" {records[-1].other_load:.0%} of the machine"
            )
    return records


def of(records: Sequence[Record], name: str, concurrency: int) -> list[Record]:
    return [one for one in records if (one.contender, one.concurrency) == (name, concurrency)]


def comparison(records: Sequence[Record], chosen: Sequence[Contender]) -> str:
    """Every contender beside the baseline, and the price of reading everything back."""
    baseline = of(records, PER_SERVER, 1)
    heading = ["", "at once", "wall s", "times as fast", "CPU s", "x per-server", "own CPU s"]
    rows = [[*heading, "peak MB", "other load"]]
    for who in chosen:
        mine = of(records, who.name, who.concurrency)
        own = report.spread(mine, lambda run: run.own_cpu).text()
        rows.append(
            [
                who.name,
                f"{who.concurrency}",
                report.spread(mine, lambda run: run.wall).text(),
                report.ratio(baseline, mine, lambda run: run.wall).text(2),
                report.spread(mine, lambda run: run.cpu).text(),
                report.ratio(mine, baseline, lambda run: run.cpu).text(2),
                "-" if who.name == PER_SERVER else own,
                report.spread(mine, lambda run: run.memory).text(0, MB),
                Spread.of([one.other_load for one in mine]).text(0, 0.01) + " %",
            ]
        )
    lines = [report.table(rows), ""]
    for who in chosen:
        mine = of(records, who.name, who.concurrency)
        at_once = f"{who.concurrency} at once"
        if who.name != PER_SERVER:
            wall = report.ratio(baseline, mine, lambda run: run.wall)
            lines.append(
                f"asyncbackup {who.name}, {at_once}, is {wall.text(2)} times as fast as {PER_SERVER}"
            )
        counted = of(records, f"verify {Level.ROWS.value}", who.concurrency)
        if who.name == f"verify {Level.CONTENT.value}" and counted:
            wall, cpu = (report.ratio(mine, counted, attrgetter(value)) for value in ("wall", "cpu"))
            lines.append(
                f"content takes {wall.text(2)} times the time of rows, {at_once}, and {cpu.text(2)} times"
                " the CPU time: where both keep all cores busy, that is the ratio that others' load"
                " doesn't touch"
            )
    return "\n".join(lines)


def summary(records: Sequence[Record], chosen: Sequence[Contender]) -> list[dict[str, object]]:
    """Return median and spread of every value, and of the ratios by round."""
    baseline = of(records, PER_SERVER, 1)
    result: list[dict[str, object]] = []
    for who in chosen:
        mine = of(records, who.name, who.concurrency)
        counted = of(records, f"verify {Level.ROWS.value}", who.concurrency)
        entry: dict[str, object] = {"contender": who.name, "concurrency": who.concurrency}
        for name in ("wall", "cpu", "own_cpu", "own_rss", "memory"):
            value: Value = attrgetter(name)
            entry[name] = asdict(report.spread(mine, value))
            if who.name != PER_SERVER and name in {"wall", "cpu"}:
                entry[f"per_server_to_{name}"] = asdict(report.ratio(baseline, mine, value))
                if counted:
                    entry[f"{name}_to_rows"] = asdict(report.ratio(mine, counted, value))
        result.append(entry)
    return result


async def backed_up(options: argparse.Namespace, folder: Path) -> tuple[Fleet, dict[str, str]]:
    """Build the fleet, back it up, and end its server; return the backups, and what made them."""
    members = [
        *fleetdata.plan("big", options.big, options.big_mb),
        *fleetdata.plan("small", options.small, options.small_mb),
    ]
    backups = folder / "backups"
    backups.mkdir()
    async with server.own(folder, options.bindir) as target:
        fleetdata.build(target, members)
        say(f"backing up {len(members)} databases …")
        job = Job(target=target, databases=[member.name for member in members], concurrency=2)
        baselines.ours().start(job, backups)
        made = {
            "server": target.psql("postgres", "SHOW server_version"),
            "client": first_line([f"{target.bindir / 'psql'}", "--version"]),
        }
        environment = target.environment | baselines.settings(job, backups)
        user, bindir = target.user, target.bindir
    del environment["PGPASSFILE"]  # nothing is asked of the server any more
    sizes = {}
    for path in backups.rglob("*.sql.gz.json"):
        manifest = json.loads(path.read_text())
        if str(manifest["dbname"]) in job.databases:
            sizes[path.with_suffix("")] = int(manifest["sql_bytes"])
    fleet = Fleet(
        backups=sorted(sizes, key=lambda path: -sizes[path]),
        sql_bytes=sum(sizes.values()),
        environment=environment | {"PG_BINDIRS": f"{bindir}"},
        user=user,
        account=account_for(_OWNER, None),
        folder=folder,
    )
    say(f"{len(sizes)} backups, {fleet.sql_bytes / MB:,.0f} MB of SQL")
    return fleet, made


def measured(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Make the backups, see that verifications tell good from bad, and time them."""
    fleet, made = asyncio.run(backed_up(options, folder))
    say("verifying all backups, and damaged copies …")
    with fleet.scratch() as scratch:
        environment = {**fleet.environment, "VERIFY_DIR": f"{scratch / 'servers'}"}
        proofs.check(environment, fleet.backups, scratch)
    say("all of them are called good, and what was damaged is called bad")
    chosen = contenders(options)
    records = rounds(fleet, chosen, options.rounds)
    text = comparison(records, chosen)
    print(text)
    if disturbed := report.noise(records, whole=True):
        print(f"\n{disturbed}")
    return {
        "databases": len(fleet.backups),
        "sql_bytes": fleet.sql_bytes,
        "machine": report.machine(),
        **made,
        "options": vars(options),
        "table": text,
        "summary": summary(records, chosen),
        "runs": report.plain(records),
    }


def levels(text: str) -> list[Level]:
    try:
        return [Level(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}") from error


def arguments() -> argparse.Namespace:
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    add = parser.add_argument
    at_once = configuration.load({}).max_concurrent_verifications
    add("--rounds", type=int, default=3)
    add("--levels", type=levels, default="tables,rows,content")
    add("--concurrency", type=numbers, default=[at_once], help="verifications at once; several, as 1,2,3")
    add("--json", type=Path, help="write all figures to this file")
    add("--workdir", type=Path, help="where backups and servers go; default a temporary folder")
    add("--bindir", type=Path, help="PostgreSQL's programs; default the newest")
    built = parser.add_argument_group("the fleet that is built (sizes in MB of SQL text)")
    add = built.add_argument
    add("--small", type=int, default=10)
    add("--small-mb", type=int, default=23)
    add("--big", type=int, default=1)
    add("--big-mb", type=int, default=466)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.workdir) as name:
        Path(name).chmod(0o711)  # whom the servers run as must reach their folders below it
        try:
            result = measured(options, Path(name).resolve())
        except (CommandFailedError, ClientError, proofs.UnprovenError) as error:
            raise SystemExit(f"FAILED: {error}") from error
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
