"""Who takes part: asyncbackup, what it is compared with, and the floor below which nobody gets."""

import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bench.measure import Run, run
from bench.server import Target

OURS = "asyncbackup"
FLOOR = "floor"
PLAIN = "xargs-plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every contender is given: the databases, largest first, and how many at once."""

    target: Target
    databases: Sequence[str]
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to back up databases; `missing` names the program without which it can't run."""

    name: str
    what: str
    start: Callable[[Job, Path], Run]
    missing: str = ""


def _xargs(
    command: Callable[[list[str], Path], list[str]], *, serial: bool = False
) -> Callable[[Job, Path], Run]:
    """Return a start by xargs of a command for each database, {} in it being the name."""

    def start(job: Job, folder: Path) -> Run:
        names = folder / "databases"
        names.write_text("".join(f"{name}\0" for name in job.databases))
        output = folder / "output"
        output.mkdir()
        dump = ["pg_dump", *job.target.options]
        return run(
            ["xargs", "-0", "-P", str(1 if serial else job.concurrency), "-I", "{}", *command(dump, output)],
            environment=job.target.environment,
            stdin=names,
            log=folder / "log",
            output=output,
            server_pid=job.target.pid,
        )

    return start


def _file(*options: str, suffix: str) -> Callable[[list[str], Path], list[str]]:
    """Return a pg_dump that writes a file itself."""
    return lambda dump, output: [*dump, *options, "-f", f"{output}/{{}}{suffix}", "--", "{}"]


def _nowhere(dump: list[str], _output: Path) -> list[str]:
    """Return a pg_dump to standard output, which is /dev/null."""
    return [*dump, "--", "{}"]


def _pipe(compressor: str) -> Callable[[list[str], Path], list[str]]:
    """Return a pg_dump through a compressor, in a shell that notices when either fails."""

    def command(dump: list[str], output: Path) -> list[str]:
        script = f'{shlex.join(dump)} -- "$1" | {compressor} > "$2"'
        return ["bash", "-o", "pipefail", "-c", script, "bash", "{}", f"{output}/{{}}.sql.gz"]

    return command


def _asyncbackup(job: Job, folder: Path) -> Run:
    output = folder / "output"
    output.mkdir()
    environment = job.target.environment | settings(job, folder)
    return run(
        command("backup"),
        environment=environment,
        stdin=None,
        log=folder / "log",
        output=output,
        server_pid=job.target.pid,
    )


def command(*arguments: str) -> list[str]:
    """Return the command line of the asyncbackup that is installed beside this interpreter."""
    script = Path(sys.executable).with_name("asyncbackup")
    return [str(script), *arguments] if script.exists() else [sys.executable, "-m", "asyncbackup", *arguments]


def settings(job: Job, folder: Path) -> dict[str, str]:
    """Write a backup.conf and return the settings for a run with it; backups go to `output`."""
    host = f"[{job.target.host}]" if ":" in job.target.host else job.target.host
    conf = folder / "backup.conf"
    conf.write_text("".join(f"{host}:{job.target.port}/{quote(name, safe='')}\n" for name in job.databases))
    return {
        "BACKUP_CONF": str(conf),
        "BACKUP_DIR": str(folder / "output"),
        "POSTGRESQL_USER": job.target.user,
        "MAX_CONCURRENT_DUMPS": str(job.concurrency),
        "MAX_CONCURRENT_DUMPS_PER_SERVER": str(job.concurrency),
        "LOG_FORMAT": "json",
    }


def contenders() -> list[Contender]:
    """Return all of them, ours first and the floor last."""
    return [
        ours(),
        Contender(
            name="serial-gzip",
            what="pg_dump | gzip, one after the other, as a shell script does",
            start=_xargs(_pipe("gzip"), serial=True),
        ),
        Contender(name="xargs-gzip", what="xargs -P: pg_dump | gzip", start=_xargs(_pipe("gzip"))),
        Contender(name="xargs-Fc", what="xargs -P: pg_dump -Fc", start=_xargs(_file("-Fc", suffix=".dump"))),
        Contender(
            name="xargs-pigz",
            what="xargs -P: pg_dump | pigz",
            start=_xargs(_pipe("pigz")),
            missing="" if shutil.which("pigz") else "pigz",
        ),
        Contender(name=FLOOR, what="xargs -P: pg_dump > /dev/null", start=_xargs(_nowhere)),
    ]


def ours() -> Contender:
    """Return asyncbackup."""
    return Contender(name=OURS, what="asyncbackup backup", start=_asyncbackup)


def plain() -> Contender:
    """Return what a thousand empty databases are compared with: nothing but pg_dump."""
    return Contender(name=PLAIN, what="xargs -P: pg_dump > file", start=_xargs(_file(suffix=".sql")))
