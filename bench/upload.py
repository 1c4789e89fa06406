"""Compare uploads by FTPS with curl's and lftp's, to servers that people run: see README.md."""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs from a clone as it stands

from bench import measure, report
from bench.fleet import interrupted, names, say
from bench.measure import CommandFailedError, Run, Spread
from bench.report import MB, Record, Value
from tests import ftp_packages, ftp_servers
from tests.ftp_servers import PASSWORD, VERSIONS, FtpServer, Kind

CURL = "curl"
OURS = "asyncbackup"
DIGEST = "asyncbackup, hashing"
KINDS: tuple[Kind, ...] = ("proftpd", "vsftpd")
_HERE = Path(__file__).resolve().parent
_MEMORY_AT = 16
"""Our memory is looked at with a file of that part of the size, too."""
_CLIENTS = (CURL, "lftp")
_IN_MEMORY = Path("/dev/shm")
_PIECE = 1024 * 1024
_BETWEEN = 0.7  # seconds; ProFTPD lets the next client wait while it buries the last one's session
_PATIENCE = 10.0
_TRIES = 10
_LOST = "server did not report OK, got 426"
_AIMS = (1.0, 1.4)  # of curl's throughput, and of its CPU time


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A file, and the server that it goes to."""

    server: FtpServer
    path: Path
    scratch: Path

    @property
    def login(self) -> str:
        """The server's URL, with user and password."""
        return self.server.url()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to upload a file; the command reads the job's secrets from a file or its environment."""

    name: str
    what: str
    command: Callable[[Job], list[str]]
    stdin: Callable[[Job], str] = lambda _: ""
    environment: Callable[[Job], dict[str, str]] = lambda _: {}


class NotStoredError(Exception):
    """What a contender has stored is not the file; there is nothing to measure."""


def contenders() -> list[Contender]:
    """Return all of them, the baseline first."""
    return [
        Contender(
            name=CURL,
            what="curl --ssl-reqd -T",
            command=lambda job: [
                *(_program(CURL), "-sS", "--ssl-reqd"),
                *("--cacert", f"{job.server.ca_file}", "-T", f"{job.path}", "-K", "-"),
            ],
            stdin=lambda job: f'url = "{job.login}{job.path.name}"\n',
            environment=lambda _: _libraries(CURL),
        ),
        Contender(
            name="lftp",
            what="lftp's put, with ftp:ssl-force and ftp:ssl-protect-data",
            command=lambda _: [_program("lftp"), "-f", "/dev/stdin"],
            stdin=_lftp_script,
            environment=lambda _: {**_libraries("lftp"), "LFTP_PASSWORD": PASSWORD},
        ),
        Contender(
            name=OURS,
            what="asyncbackup's upload, from connecting to renaming, in a process that runs already",
            command=_ours,
            environment=lambda job: {"FTP_URL": job.login},
        ),
        Contender(
            name=DIGEST,
            what="the same, and the file is read and hashed (SHA-256) in a thread, as in a run",
            command=lambda job: [*_ours(job), "digest"],
            environment=lambda job: {"FTP_URL": job.login},
        ),
    ]


def _program(name: str) -> str:
    return f"{ftp_packages.program(name) or name}"


def _libraries(name: str) -> dict[str, str]:
    """Return what an unpacked program needs to find its libraries; an installed one has its own."""
    unpacked = _program(name).startswith(f"{ftp_packages.ROOT}")
    return {"LD_LIBRARY_PATH": ftp_packages.libraries()} if unpacked else {}


def _lftp_script(job: Job) -> str:
    settings = {
        "cmd:fail-exit": "true",
        "ftp:ssl-force": "true",
        "ftp:ssl-protect-data": "true",
        "net:max-retries": "1",
        "ssl:ca-file": f'"{job.server.ca_file}"',
    }
    lines = [f"set {name} {value}" for name, value in settings.items()]
    login = f"open --user {job.server.user} --env-password ftp://{job.server.host}:{job.server.port}"
    return "\n".join([*lines, login, f'put "{job.path}"', ""])


def _ours(job: Job) -> list[str]:
    return [
        *(sys.executable, f"{_HERE / 'over_ftps.py'}"),
        *(f"{job.path}", f"{job.server.ca_file}", f"{_result(job)}"),
    ]


def _result(job: Job) -> Path:
    return job.scratch / "result.json"


def once(job: Job, who: Contender) -> Run:
    """Upload once; by TLS 1.3, some versions of curl now and then throw away what they have sent last.

    They close the connection with the server's session tickets unread, and the server has it reset.
    """
    for _ in range(_TRIES):
        try:
            return attempt(job, who)
        except CommandFailedError as error:
            if who.name != CURL or _LOST not in str(error):
                raise
            say(f"{who.name} has lost the end of the file to {job.server.kind}, and tries again: {_LOST}")
    raise NotStoredError(f"{who.name} loses the end of the file to {job.server.kind} each time")


def attempt(job: Job, who: Contender) -> Run:
    """Upload once, or fail; a process of ours has told itself what the upload took."""
    stored = job.server.home / job.path.name
    stored.unlink(missing_ok=True)
    time.sleep(_BETWEEN)
    script = job.scratch / "stdin"
    script.touch(0o600)
    script.write_text(who.stdin(job))
    _result(job).unlink(missing_ok=True)
    run = measure.run(
        who.command(job),
        environment={
            "PATH": os.environ["PATH"],
            "HOME": f"{job.scratch}",
            "LC_ALL": "C.UTF-8",
            **who.environment(job),
        },
        stdin=script,
        log=job.scratch / "log",
        output=job.server.home,
        server_pid=job.server.pid,
        settled=lambda: _settled(job.server),
    )
    if not _result(job).exists():
        return run
    took = json.loads(_result(job).read_text())
    part = took["wall"] / run.wall
    return replace(run, wall=took["wall"], cpu=took["cpu"], other_cpu=run.other_cpu * part)


def _settled(server: FtpServer) -> None:
    """Wait until the sessions have ended: only then is what they took in the server's account."""
    end = time.monotonic() + _PATIENCE
    while server.sessions() and time.monotonic() < end:
        time.sleep(0.01)


def check(job: Job, chosen: Sequence[Contender]) -> None:
    """Let each contender upload once, and compare what the server has then, or raise."""
    expected = _digest(job.path)
    for who in chosen:
        once(job, who)
        stored = {path.name: _digest(path) for path in job.server.home.iterdir()}
        if stored != {job.path.name: expected}:
            raise NotStoredError(f"{who.name} has not stored the file at {job.server.kind}: {list(stored)}")


def _digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def rounds(jobs: dict[str, Job], chosen: Sequence[Contender], count: int) -> list[Record]:
    """Run all of them with every server in turn, so often; each round begins with another one."""
    records = []
    for turn in range(1, count + 1):
        first = (turn - 1) % len(chosen)
        for group, job in jobs.items():
            for who in [*chosen[first:], *chosen[:first]]:
                run = once(job, who)
                records.append(Record(contender=who.name, concurrency=1, round=turn, run=run, group=group))
                say(
                    f"round {turn}: {who.name} to {group}: {run.wall:.2f} s wall, {run.cpu:.2f} s CPU, the"
                    f" server {run.server_cpu:.2f}, others used {records[-1].other_load:.0%} of the machine"
                )
    return records


def of(records: Sequence[Record], group: str, name: str) -> list[Record]:
    return [one for one in records if (one.group, one.contender) == (group, name)]


def speed(run: Run) -> float:
    """Return how many bytes a second it stored."""
    return run.output / run.wall


def _of_server(run: Run) -> float:
    return run.server_cpu or 0


def comparison(records: Sequence[Record], chosen: Sequence[Contender], small: dict[str, int]) -> str:
    """Every contender beside curl, for each server; `small` are our bytes of memory with a small file."""
    heading = ["", "", "wall s", "MB/s", "x curl", "client CPU s", "x curl", "server CPU s", "peak MB"]
    rows = [[*heading, "other load"]]
    lines = []
    for group in dict.fromkeys(record.group for record in records):
        curl = of(records, group, CURL)
        for who in chosen:
            mine = of(records, group, who.name)
            faster, dearer = (
                report.ratio(mine, curl, value) if curl else None for value in (speed, attrgetter("cpu"))
            )
            rows.append(
                [
                    group,
                    who.name,
                    report.spread(mine, lambda run: run.wall).text(2),
                    report.spread(mine, speed).text(0, MB),
                    faster.text(2) if faster else "-",
                    report.spread(mine, lambda run: run.cpu).text(2),
                    dearer.text(2) if dearer else "-",
                    # Nobody waits for all of vsftpd's processes, so that its account lacks what they took.
                    "-" if "vsftpd" in group else report.spread(mine, _of_server).text(2),
                    report.spread(mine, lambda run: run.own_rss).text(0, MB),
                    Spread.of([one.other_load for one in mine]).text(0, 0.01) + " %",
                ]
            )
            if who.name == OURS and faster and dearer:
                met = faster.median >= _AIMS[0] and dearer.median <= _AIMS[1]
                lines.append(
                    f"{group}: asyncbackup has {faster.text(2)} times curl's throughput with {dearer.text(2)}"
                    f" times its CPU time, which is {'' if met else 'NOT '}what is aimed for"
                )
            if who.name == OURS and group in small:
                large = report.spread(mine, lambda run: run.own_rss)
                lines.append(
                    f"{group}: its process has {large.text(1, MB)} MB at most, and {small[group] / MB:.1f}"
                    f" with a file of a {_MEMORY_AT}th of the size"
                )
    told = [f"- `{who.name}`: {who.what}" for who in chosen]
    return "\n".join([report.table(rows), "", *told, "", *lines])


def summary(records: Sequence[Record], chosen: Sequence[Contender]) -> list[dict[str, object]]:
    """Return median and spread of the values, and of the ratios by round."""
    result: list[dict[str, object]] = []
    for group in dict.fromkeys(record.group for record in records):
        curl = of(records, group, CURL)
        for who in chosen:
            mine = of(records, group, who.name)
            entry: dict[str, object] = {"contender": who.name, "group": group}
            values: dict[str, Value] = {"speed": speed, "cpu": attrgetter("cpu")}
            for name, value in values.items():
                entry[name] = asdict(report.spread(mine, value))
                if curl:
                    entry[f"{name}_to_curl"] = asdict(report.ratio(mine, curl, value))
            entry["own_rss"] = asdict(report.spread(mine, attrgetter("own_rss")))
            result.append(entry)
    return result


@contextmanager
def served(options: argparse.Namespace, path: Path) -> Iterator[dict[str, Job]]:
    """Run a server of each kind for each version of TLS; yield their jobs by name."""
    scratch = path.parent / "scratch"
    scratch.mkdir()
    jobs: dict[str, Job] = {}
    with ExitStack() as stack:
        for kind in options.servers:
            for tls in options.tls:
                server = stack.enter_context(ftp_servers.serving(kind, tls=tls, folder=path.parent))
                jobs[f"{kind}, TLS {tls}"] = Job(server=server, path=path, scratch=scratch)
        yield jobs


def write(path: Path, size: int) -> Path:
    """Write a file that no compression makes smaller."""
    with path.open("wb") as sink:
        for at in range(0, size, _PIECE):
            sink.write(os.urandom(min(_PIECE, size - at)))
    return path


def measured(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Make the file, see that all can store it, and time that."""
    chosen = [who for who in contenders() if not options.only or who.name in options.only]
    for who in [who for who in chosen if who.name in _CLIENTS and not ftp_packages.program(who.name)]:
        say(f"SKIPPED {who.name}: it is not on this machine, and could not be downloaded")
        chosen.remove(who)
    with served(options, write(folder / "large.sql.gz", options.size_mb * _PIECE)) as jobs:
        for job in jobs.values():
            check(job, chosen)
        say("every contender stores what it was given")
        small: dict[str, int] = {}
        for group, job in jobs.items() if any(who.name == OURS for who in chosen) else ():
            (ours,) = (who for who in chosen if who.name == OURS)
            part = replace(job, path=write(folder / "small.sql.gz", job.path.stat().st_size // _MEMORY_AT))
            small[group] = once(part, ours).own_rss
            (job.server.home / part.path.name).unlink()
        records = rounds(jobs, chosen, options.rounds)
    text = comparison(records, chosen, small)
    print(text)
    if disturbed := report.noise(records):
        print(f"\n{disturbed}")
    return {
        "bytes": options.size_mb * _PIECE,
        "machine": report.machine(),
        "clients": [version_of(who.name) for who in chosen if who.name in _CLIENTS],
        "options": vars(options),
        "table": text,
        "summary": summary(records, chosen),
        "runs": report.plain(records),
    }


def version_of(name: str) -> str:
    """Return what a client says that it is."""
    command = [_program(name), "--version"]
    environment = {"PATH": os.environ["PATH"], **_libraries(name)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.partition("\n")[0]


def choice(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what reads a list of some of these."""

    def read(text: str) -> list[str]:
        if unknown := set(names(text)) - set(allowed):
            raise argparse.ArgumentTypeError(f"not among {', '.join(allowed)}: {', '.join(unknown)}")
        return names(text)

    return read


def arguments() -> argparse.Namespace:
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    add = parser.add_argument
    add("--rounds", type=int, default=3)
    add("--size-mb", type=int, default=1024, help="size of the file, in MiB")
    add("--servers", type=choice(KINDS), default=list(KINDS), help="of proftpd and vsftpd, comma-separated")
    add("--tls", type=choice(VERSIONS), default=list(VERSIONS), help="versions, comma-separated")
    add("--only", type=names, default=[], help="contenders that take part, comma-separated; default all")
    add("--json", type=Path, help="write all figures to this file")
    add(
        "--workdir",
        type=Path,
        help="where the file is, and what is stored; default in memory, if there is room",
    )
    return parser.parse_args()


def place(options: argparse.Namespace) -> Path | None:
    """Return where everything goes: no disk should have a say."""
    chosen: Path | None = options.workdir
    if chosen or not _IN_MEMORY.is_dir():
        return chosen
    copies = 2 + len(options.servers) * len(options.tls)
    room = shutil.disk_usage(_IN_MEMORY).free > copies * options.size_mb * _PIECE
    return _IN_MEMORY if room else None


def main() -> None:
    options = arguments()
    failed = ftp_packages.get([*options.servers, *_CLIENTS])
    for name, why in failed.items():
        say(f"without {name}: {why}")
    for kind in options.servers:
        if lacking := ftp_servers.lacking(kind):
            raise SystemExit(lacking)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place(options)) as name:
        Path(name).chmod(0o711)  # whom the servers run as must reach their folders below it
        try:
            result = measured(options, Path(name))
        except (CommandFailedError, NotStoredError, ftp_servers.NotStartedError) as error:
            raise SystemExit(f"FAILED: {error}") from error
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
