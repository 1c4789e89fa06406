"""A backup directory full of files of any age, whose content nobody looks at."""

import gzip
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asyncbackup import configuration, manifest, naming, records
from asyncbackup.conf import Conf
from asyncbackup.model import DatabaseSpec, Level, Manifest, StoredFile, Verdict, Verification
from asyncbackup.proof.candidates import choose
from asyncbackup.settings import Settings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ONE, TWO, GLOBALS = (
    DatabaseSpec("h", 5432, "one"),
    DatabaseSpec("h", 5432, "two"),
    DatabaseSpec("h", 5432, ""),
)


@dataclass
class Volume:
    """A backup directory with files of any age, of no content that matters here."""

    root: Path
    own: Path
    conf: Conf = field(default_factory=lambda: Conf(databases=(ONE, TWO)))

    def put(
        self,
        spec: DatabaseSpec,
        age: timedelta,
        *,
        name_says: timedelta | None = None,
        of_old: bool = False,
        bytes_: int = 20,
    ) -> Path:
        """Write a backup of this age, with a manifest unless it is the bash tool's."""
        at = NOW - age
        told = (NOW - name_says if name_says is not None else at).astimezone()
        name = f"{naming.short_core(spec)}_{told:%Y-%m-%d_%H-%M-%S}.sql.gz"
        path = self.root / f"{told:%Y-%m-%d}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"").ljust(bytes_, b"\0"))
        if not of_old:
            of = Manifest(
                host=spec.host, port=spec.port, dbname=spec.dbname, kind="database", run_id="r", started_at=at,
                finished_at=at, local_time="", server_version="15.1", client_version="15.1", loads_into=15,
                file=StoredFile(name=name, bytes=bytes_, sha256="0" * 64, compressor="isal", level=1),
                sql_bytes=1, rows=0, table_count=0, encoding="UTF8", outside_blake3="0" * 64, restricted=True,
            )  # fmt: skip
            path.with_name(f"{name}.json").write_bytes(manifest.to_json(of))
        return path

    def verified(
        self, path: Path, age: timedelta, verdict: Verdict = Verdict.GOOD, *, apart: bool = False
    ) -> None:
        """Write a record of a verification of this age."""
        record = Verification(
            name=path.name, host="h", port=5432, dbname="", verdict=verdict, level=Level.ROWS, proven=True,
            run_id="r", started_at=NOW - age, seconds=1, load_seconds=1, bytes=path.stat().st_size,
            sha256="0" * 64, server_version="15.1",
        )  # fmt: skip
        folder = self.own / "records" if apart else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.name}.verified.json").write_bytes(records.to_json(record))

    @property
    def settings(self) -> Settings:
        return configuration.load({"BACKUP_DIR": f"{self.root}", "VERIFY_DIR": f"{self.own}"})

    def chosen(self, *only: DatabaseSpec, pattern: str = "") -> tuple[list[Path], tuple[DatabaseSpec, ...]]:
        found, missing = choose(
            self.settings,
            self.conf,
            only=only,
            required=only or self.conf.databases,
            pattern=pattern,
            now=NOW,
        )
        return [one.path for one in found], missing


def days(number: float) -> timedelta:
    return timedelta(days=number)
