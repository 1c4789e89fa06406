"""Tables of what was measured, in Markdown, and the same as plain data."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

from bench.baselines import FLOOR, OURS, Contender
from bench.measure import Run, Spread

MB = 1e6
NOISE = 0.1
"""The share of the machine that others may use before it is said that a run was disturbed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One run of one contender; `group` tells the parts of a scenario apart, if it has any."""

    contender: str
    concurrency: int
    round: int
    run: Run
    group: str = ""

    @property
    def other_load(self) -> float:
        """The share of the machine that was used by others while it ran."""
        return self.run.other_cpu / self.run.wall / (os.cpu_count() or 1)


Value = Callable[[Run], float]


def spread(records: Sequence[Record], value: Value) -> Spread:
    return Spread.of([value(record.run) for record in records])


def ratio(records: Sequence[Record], reference: Sequence[Record], value: Value) -> Spread:
    """Return how many times the reference's value it is; only runs of the same round are compared."""
    of_round = {record.round: value(record.run) for record in reference}
    return Spread.of([value(record.run) / (of_round[record.round] or 1e-9) for record in records])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows, the first being the heading, as a Markdown table that reads well as it stands."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def comparison(records: Sequence[Record], contenders: Sequence[Contender], sql_bytes: int) -> str:
    """Every contender beside ours: absolute values, and how many times ours."""
    by_name = {c.name: [r for r in records if r.contender == c.name] for c in contenders}
    ours = by_name.get(OURS, [])
    heading = ["", "wall s", "x ours", "client CPU s", "x ours", "output MB", "x ours"]
    heading += ["peak MB, all processes", "server CPU s", "other load"]
    rows = [heading]
    for contender in contenders:
        mine = by_name[contender.name]
        row = [contender.name]
        values: list[tuple[Value, float, int]] = [
            (lambda run: run.wall, 1, 1),
            (lambda run: run.cpu, 1, 1),
            (lambda run: run.output, MB, 0),
        ]
        for value, scale, digits in values:
            measured = spread(mine, value)
            row.append(measured.text(digits, scale) if measured.high else "-")
            row.append(ratio(mine, ours, value).text(2) if ours and measured.high else "-")
        row.append(spread(mine, lambda run: run.tree_rss).text(0, MB))
        served = mine[0].run.server_cpu is not None
        row.append(spread(mine, lambda run: run.server_cpu or 0).text(1) if served else "-")
        row.append(Spread.of([record.other_load for record in mine]).text(0, 0.01) + " %")
        rows.append(row)
    lines = [table(rows), "", *(f"- `{c.name}`: {c.what}" for c in contenders)]
    if ours:
        lines += ["", *_ours(ours, by_name, sql_bytes)]
    return "\n".join(lines)


def _ours(ours: Sequence[Record], by_name: Mapping[str, Sequence[Record]], sql_bytes: int) -> list[str]:
    own = spread(ours, lambda run: run.own_cpu)
    lines = [
        f"asyncbackup's own process, without its pg_dump children: {own.text(1)} CPU-seconds"
        + (f" = {own.text(2, sql_bytes / 1e9)} per GB of SQL" if sql_bytes else "")
        + f"; peak RSS {spread(ours, lambda run: run.own_rss).text(0, MB)} MB"
    ]
    for name, records in by_name.items():
        if name not in {OURS, FLOOR}:
            wall = ratio(records, ours, lambda run: run.wall)
            lines.append(f"asyncbackup is {wall.text(2)} times as fast as {name}")
    if FLOOR in by_name:
        wall = ratio(ours, by_name[FLOOR], lambda run: run.wall)
        lines.append(f"asyncbackup takes {wall.text(2)} times the floor's wall time")
        if ours[0].run.server_cpu is not None:
            work = ratio(ours, by_name[FLOOR], lambda run: run.cpu + (run.server_cpu or 0))
            lines.append(
                f"asyncbackup and the server together use {work.text(2)} times the floor's CPU time:"
                " where both keep all cores busy, that is the ratio that others' load doesn't touch"
            )
    gzip = by_name.get("serial-gzip") or by_name.get("xargs-gzip")
    if gzip:
        size = ratio(ours, gzip, lambda run: run.output)
        lines.append(f"asyncbackup's output is {size.text(3)} times as large as gzip's")
    return lines


def sweep(records: Sequence[Record], sql_bytes: int) -> str:
    """One row for each concurrency, and which to choose."""
    floor_too = any(record.contender == FLOOR for record in records)
    heading = ["at once", "wall s", "SQL MB/s", "client CPU s", "own CPU s", "own peak RSS MB"]
    rows = [[*heading, "server CPU s", "other load", *(["x floor"] if floor_too else [])]]
    walls: dict[int, float] = {}
    for concurrency in sorted({record.concurrency for record in records}):
        at = [record for record in records if record.concurrency == concurrency]
        ours = [record for record in at if record.contender == OURS]
        wall = spread(ours, lambda run: run.wall)
        walls[concurrency] = wall.median
        served = ours[0].run.server_cpu is not None
        row = [
            str(concurrency),
            wall.text(1),
            f"{sql_bytes / MB / wall.median:,.0f}" if sql_bytes else "-",
            spread(ours, lambda run: run.cpu).text(1),
            spread(ours, lambda run: run.own_cpu).text(1),
            spread(ours, lambda run: run.own_rss).text(0, MB),
            spread(ours, lambda run: run.server_cpu or 0).text(1) if served else "-",
            Spread.of([record.other_load for record in ours]).text(0, 0.01) + " %",
        ]
        if floor_too:
            floor = [record for record in at if record.contender == FLOOR]
            row.append(ratio(ours, floor, lambda run: run.wall).text(2))
        rows.append(row)
    best = min(walls.values())
    choice = min(concurrency for concurrency, wall in walls.items() if wall <= best * 1.05)
    advice = f"MAX_CONCURRENT_DUMPS_PER_SERVER={choice}: the fewest at once within 5 % of the fastest"
    return f"{table(rows)}\n\n{advice}"


def memory(records: Sequence[Record], sizes: Mapping[str, int]) -> str:
    """One row for each size of database: does our memory grow with it?"""
    rows = [["databases", "SQL MB", "own peak RSS MB", "peak MB, all processes", "wall s"]]
    for group, sql_bytes in sizes.items():
        mine = [record for record in records if record.group == group]
        rows.append(
            [
                group,
                f"{sql_bytes / MB:,.0f}",
                spread(mine, lambda run: run.own_rss).text(1, MB),
                spread(mine, lambda run: run.tree_rss).text(0, MB),
                spread(mine, lambda run: run.wall).text(1),
            ]
        )
    return table(rows)


def noise(records: Sequence[Record], *, whole: bool = False) -> str:
    """Say which runs were disturbed by others on this machine, or nothing.

    `whole` says that all of the work is in the runs' own account, servers included.
    """
    disturbed = [r for r in records if r.other_load > NOISE]
    if not disturbed:
        return ""
    whom = (
        "others" if whole or records[0].run.server_cpu is not None else "others, or the server if it is here,"
    )
    worst = max(disturbed, key=lambda record: record.other_load)
    return (
        f"NOISY: in {len(disturbed)} of {len(records)} runs {whom} used more than {NOISE:.0%} of this machine"
        f" (worst: {worst.contender}, round {worst.round}, {worst.other_load:.0%})"
    )


def machine() -> dict[str, object]:
    """Describe this machine, as far as it bears on the figures."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def summary(records: Sequence[Record]) -> list[dict[str, object]]:
    """Return median and spread of every value, and of its ratio to ours and ours to it by round."""
    result: list[dict[str, object]] = []
    for key in dict.fromkeys((r.contender, r.concurrency, r.group) for r in records):
        mine = [r for r in records if (r.contender, r.concurrency, r.group) == key]
        ours = [r for r in records if (r.contender, r.concurrency, r.group) == (OURS, *key[1:])]
        entry: dict[str, object] = {"contender": key[0], "concurrency": key[1], "group": key[2]}
        for name in ("wall", "cpu", "own_cpu", "own_rss", "tree_rss", "memory", "output"):
            value: Value = attrgetter(name)
            entry[name] = asdict(spread(mine, value))
            if ours and key[0] != OURS and name in {"wall", "cpu", "output"}:
                entry[f"{name}_to_ours"] = asdict(ratio(mine, ours, value))
                if spread(mine, value).low:
                    entry[f"ours_to_{name}"] = asdict(ratio(ours, mine, value))
        result.append(entry)
    return result


def plain(records: Sequence[Record]) -> list[dict[str, object]]:
    """Return records as JSON can hold them."""
    return [asdict(record) | {"other_load": record.other_load} for record in records]
