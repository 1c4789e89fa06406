"""The documentation says what the code says, its links lead somewhere, and its examples are understood."""

import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncbackup import conf, configuration
from asyncbackup.cli import configured, findings, render
from asyncbackup.errors import AsyncbackupError
from asyncbackup.model import Backup, DatabaseSpec, Manifest, Outcome, Report, Status, Tier, Verification
from asyncbackup.proof.check import State
from asyncbackup.settings import Settings
from docs import generate

ROOT = Path(generate.__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted((ROOT / "asyncbackup").rglob("*.py"))

# Written in capitals, yet no settings of ours.
NO_SETTINGS = {
    # logins of the hosts in examples, and how their names are formed
    "WALLET_DB_USER", "WALLET_DB_PASSWORD", "WALLET_DB_PASSWORD_FILE", "WALLET_DB_5433_USER",
    "DB_EXAMPLE_ORG_USER", "DB_EXAMPLE_ORG_PASSWORD", "DB_EXAMPLE_ORG_PASSWORD_FILE",
    "HOST_10_0_0_7_USER", "HOST_10_0_0_7_5432_USER", "HOST_", "_USER", "_PASSWORD", "_FILE",
    # words of psql and of the kernel
    "ON_ERROR_STOP", "O_EXCL",
    # what obstore and its TLS go by
    "AWS_ACCESS_KEY_ID", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE",
}  # fmt: skip

_FENCE = re.compile(r"^([ ]*`{3,})([^\n`]*)\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
_VARIABLE = re.compile(r"(?<![A-Za-z0-9_])(?:[A-Z][A-Z0-9]*_[A-Z0-9_]+|_[A-Z]+)(?![A-Za-z0-9_])")
_EVENT = re.compile(
    r"[\"']((?!backup\.(?:conf|sh)\b)(?:run|backup|upload|remote|fetch|check|verify|restore|server|client|compressor|space|passfile|configuration|leftovers|command)\.[a-z_]+)[\"']"
)


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def blocks(path: Path, info: str) -> Iterator[str]:
    for _, found, body in _FENCE.findall(path.read_text(encoding="utf-8")):
        if found.strip() == info:
            yield textwrap.dedent(body)


def anchors(path: Path) -> set[str]:
    """Return the anchors that a forge makes of a page's headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(path)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number, anchor = 0, slug
        while anchor in found:
            number += 1
            anchor = f"{slug}-{number}"
        found.add(anchor)
    return found


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_what_the_code_gives(name: str) -> None:
    page = (generate.REFERENCE / name).read_text(encoding="utf-8")
    assert page == generate.PAGES[name](), "run: python -m docs.generate"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in (markdown or html for markdown, html in _LINK.findall(prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT), f"{link}: leads out of the project"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_backup_conf_in_a_page_is_understood(page: Path) -> None:
    for block in blocks(page, "backup.conf"):
        found = conf.parse(block.encode(), default_port=5432, source="backup.conf")
        assert found.databases or found.patterns or found.schedules, block
        assert found.warnings == (), block


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_page_names_a_variable_that_is_none(page: Path) -> None:
    known = {name.upper() for name in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known} | NO_SETTINGS
    text = page.read_text(encoding="utf-8")
    code = [*_CODE.findall(prose(page)), *(body for _, info, body in _FENCE.findall(text) if info == "sh")]
    assert {name for piece in code for name in _VARIABLE.findall(piece)} <= known


def test_every_page_can_be_reached_from_the_map() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md", ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        if page.suffix == ".md":
            links = [markdown or html for markdown, html in _LINK.findall(prose(page))]
            waiting += [
                (page.parent / link.partition("#")[0]).resolve() for link in links if ":" not in link[:8]
            ]
    assert set(PAGES) <= seen
    assert set((ROOT / "docs").rglob("*.svg")) <= seen


def test_every_field_of_the_manifest_is_described() -> None:
    text = (ROOT / "docs/reference/files.md").read_text(encoding="utf-8")
    assert [name for name in Manifest.__dataclass_fields__ if f"`{name}`" not in text] == []


def test_every_field_of_a_verification_record_is_described() -> None:
    text = (ROOT / "docs/reference/files.md").read_text(encoding="utf-8").partition("## The verification")[2]
    assert [name for name in Verification.__dataclass_fields__ if f"`{name}`" not in text] == []


def test_every_event_is_described_and_no_other() -> None:
    page = ROOT / "docs/reference/events.md"
    emitted = {name for path in SOURCES for name in _EVENT.findall(path.read_text(encoding="utf-8"))}
    described = {found for found in _CODE.findall(prose(page)) if _EVENT.fullmatch(f"'{found}'")}
    assert described == emitted


def test_every_module_has_its_place_in_the_design() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    names = {path.stem for path in SOURCES if not path.stem.startswith("__")}
    assert [name for name in sorted(names) if f"`{name}`" not in text and f"`{name}.py`" not in text] == []


def test_every_category_of_failure_has_its_remedy() -> None:
    text = (ROOT / "docs/how-to/troubleshooting.md").read_text(encoding="utf-8")
    kinds = [AsyncbackupError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert [kind.category for kind in kinds if f"`{kind.category}`" not in text] == []


def test_every_field_of_a_json_result_is_described() -> None:
    text = (ROOT / "docs/reference/results.md").read_text(encoding="utf-8")
    now = datetime.now(UTC)
    spec = DatabaseSpec("h", 5432, "d")
    backup = Backup(path=Path("/b"), core="h-d", tier=Tier.DATED, taken_at=now, bytes=1, good=True)
    outcome = Outcome(spec=spec, status=Status.GOOD, seconds=1, backup=backup)
    report = Report(run_id="r", started_at=now, seconds=1, outcomes=(outcome,))
    shown = configured.configuration(configuration.load({}), conf.Conf(databases=(spec,)))
    results = [render.report(report), render.outcome(outcome), render.backup(backup, now), shown]
    results += shown["databases"]
    results.append(findings.as_object(findings.Result(path=None, spec=None, state=State.GOOD)))
    assert [name for result in results for name in result if f"`{name}`" not in text] == []
