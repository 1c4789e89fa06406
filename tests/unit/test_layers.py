"""The dependency rule: a module imports only from strictly lower ranks, so that there are no cycles."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncbackup

ROOT = Path(asyncbackup.__file__).parent

# Fractions order the members of one folder, or of one rank; `folder.*` stands for all that it does not name.
RANKS: dict[str, float] = {
    "errors": 0, "model": 0,
    "threads": 1, "process": 1.1, "events": 1, "slots": 1, "descriptors": 1, "naming": 1, "retention": 1, "schedule": 1, "sealed": 1, "manifest": 1.1, "units": 1, "targets.url": 0.5, "pgpass": 1,
    "dbspec": 1, "crontab": 1.1, "conf": 1.2,
    "statements": 1, "trailer": 1, "scanner": 1.2,
    "variables": 1.3, "settings": 2, "configuration": 2.1, "stream": 2, "locks": 2, "unpack": 2.1, "multiset": 2.2,
    "volume": 3, "records": 3.1, "inventory": 3.2,
    "postgres.folders": 4, "postgres.versions": 4, "postgres.failures": 4, "postgres.client": 4.1, "postgres.handshake": 4.1, "postgres.connect": 4.2, "postgres.datadir": 4.2, "postgres.superuser": 4.2, "postgres.cluster": 4.3,
    "postgres.handover": 4, "postgres.retelling": 4, "postgres.sections": 4, "postgres.builds": 4.1,
    "postgres.facts": 4.3, "postgres.dump": 4.3, "postgres.globals": 4.6, "postgres.load": 4.4, "postgres.readback": 4.4, "postgres.large_objects": 4.3, "postgres.indexes": 4.4, "postgres.scratch": 4.5, "postgres.lanes": 4.5, "postgres.parallel": 4.6, "postgres.properties": 4.3, "postgres.swap": 4.4, "postgres.target": 4.5,
    "targets.target": 4, "targets.ftp_control": 4.05, "targets.ftp_listing": 4.1, "targets.ftp": 4.1, "targets.ftp_failures": 4.11, "targets.ftp_remote": 4.12, "targets.s3_answers": 4.1, "targets.*": 4.2, "targets.s3": 4.3, "targets.configured": 4.5, "notifiers.*": 4,
    "offsite.rate": 5, "offsite.location": 5, "offsite.copies": 5, "offsite.known": 5, "offsite.stock": 5.1, "offsite.sending": 5.15, "offsite.shipping": 5.2, "offsite.fetching": 5.2, "offsite.checking": 5.2,
    "prune": 5, "survey": 5, "tools": 5.3, "space": 5.4, "outcomes": 5.4, "tries": 5.4, "journey": 6, "backup": 6.1,
    "proof.check": 5, "proof.reading": 5, "proof.allowance": 5, "proof.servers": 5, "proof.candidates": 5, "proof.trial": 6, "proof.verify": 6.1,
    "restoring.selection": 5, "restoring.roles": 5.1, "restoring.restoration": 6, "restoring.preflight": 6.1, "restoring.halfmade": 6.1, "restoring.restore": 6.2,
    "service": 7,
    "samples.ftps_data": 6.8, "samples.ftps_session": 6.9, "samples.*": 7, "demo": 8,
    "cli.text": 8, "cli.logs": 8, "cli.display": 8.1, "cli.render": 8.1, "cli.findings": 8.1, "cli.configured": 8.1, "cli.restored": 8.1, "cli.session": 8.2, "cli.choosing": 8.3, "cli.completing": 8.3, "cli.pruning": 8.4, "cli.restoring": 8.7, "cli.verifying": 8.7, "cli.checking": 8.3, "cli.elsewhere": 8.5, "cli.remote": 8.6, "cli.uploading": 8.6, "cli.bringing": 8.6,
    "cli.app": 8.8, "cli.seed": 8.9,
    "__main__": 9,
}  # fmt: skip

LINES = 350
# Lines that a module may have beyond the rest, and why.
LONGER = {
    "model": 530,  # a list of nouns without behaviour, in one place by design
    "scanner": 440,  # one state machine, whose steps are read together
}
VAGUE = {"utils", "helpers", "manager", "base"}


def modules() -> dict[str, Path]:
    """Return every module's path by its name within the package; a package stands under its own."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
PACKAGES = {name for name, path in MODULES.items() if path.stem == "__init__"}


def rank(module: str) -> float:
    # What a package's __init__ imports, every member imports: it imports nothing of ours.
    if module in PACKAGES:
        return -1
    everyone_else = f"{module.rpartition('.')[0]}.*"
    assert module in RANKS or everyone_else in RANKS, f"add {module!r} to RANKS in {Path(__file__).name}"
    return RANKS.get(module, RANKS.get(everyone_else, 0))


def imported(source: str) -> Iterator[str]:
    """Yield our modules that a source imports, wherever in it: at the top, in a function, for typing."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            package, _, name = full.partition(".")
            if package != ROOT.name:
                continue
            while name not in MODULES:  # `from module import function`
                name = name.rpartition(".")[0]
            yield name


def upward(module: str, source: str) -> list[str]:
    return [
        f"{module} ({rank(module)}) imports {name or ROOT.name} ({rank(name)})"
        for name in imported(source)
        if rank(name) >= rank(module)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_ranks(module: str) -> None:
    assert upward(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_of_a_size_to_be_read(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= LONGER.get(module, LINES), f"{module} has {lines} lines: split it by what it does"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_named_for_what_is_in_it(module: str) -> None:
    assert VAGUE.isdisjoint(module.split("."))


@pytest.mark.parametrize(
    "source",
    [
        "import asyncbackup.retention",
        "from asyncbackup import retention",
        "from asyncbackup.retention import plan",
        "def late():\n    from asyncbackup import errors, retention",
        "if TYPE_CHECKING:\n    from asyncbackup.retention import plan",
        "from asyncbackup import naming",
    ],
)
def test_the_rule_sees_every_form_of_import(source: str) -> None:
    assert len(upward("naming", source)) == 1


def test_the_rule_lets_the_rest_pass() -> None:
    assert (
        upward("naming", "import re\nfrom asyncbackup import __version__, errors\nimport asyncbackupper")
        == []
    )
    with pytest.raises(AssertionError, match="add 'unheard_of' to RANKS"):
        rank("unheard_of")
    with pytest.raises(AssertionError, match="absolute"):
        upward("naming", "from . import model")
