"""What goes with a backup that is removed, and what stays."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncbackup import prune
from asyncbackup.model import Backup, Decision, Plan, Tier

NAME = "h-app_2026-03-01_12-00-00.sql.gz"
SIDECARS = ("json", "verified.json", "verified.part")


@pytest.mark.parametrize("own", ["there", "missing", "not ours to change"])
def test_a_backup_goes_with_all_that_was_written_about_it(tmp_path: Path, own: str) -> None:
    root, records, locks = tmp_path / "backups", tmp_path / "records", tmp_path / "locks"
    day = root / "daily" / "2026-03-01"
    day.mkdir(parents=True)
    (day / NAME).touch()
    for suffix in SIDECARS:
        (day / f"{NAME}.{suffix}").touch()
    other = records / f"other-{NAME}.verified.json"
    if own == "there":
        records.mkdir()
        (records / f"{NAME}.verified.json").touch()
        other.touch()
    elif own == "not ours to change":
        (records / f"{NAME}.verified.json").mkdir(parents=True)
        other.touch()
    backup = Backup(
        path=day / NAME, core="h-app", tier=Tier.DAILY, taken_at=datetime(2026, 3, 1, tzinfo=UTC), bytes=0, good=True
    )  # fmt: skip
    plan = Plan(decisions=(Decision(backup=backup, keep=False, reason=""),))
    assert prune.carry_out(plan, root, locks, "run", records) == prune.Removal(
        removed=(backup.path,), problems=()
    )
    assert list(root.iterdir()) == []
    if own != "missing":
        left = sorted(path.name for path in records.iterdir())
        assert left == sorted([other.name] if own == "there" else [other.name, f"{NAME}.verified.json"])
