"""Which client may dump which server."""

from itertools import product
from pathlib import Path

import pytest

from asyncbackup.errors import ClientError
from asyncbackup.model import PgVersion
from asyncbackup.postgres.client import servers
from asyncbackup.postgres.versions import FLOOR, Client, below_floor, choose, server_for, wave


def version(text: str) -> PgVersion:
    major, minor = text.split(".")
    return PgVersion(int(major), int(minor))


def clients(text: str) -> list[Client]:
    return [Client(bindir=Path(f"/{at}"), version=version(one)) for at, one in enumerate(text.split())]


# Minor releases of one day, from the release notes.
WAVES = [
    "15.8 16.4 14.13 13.16 12.20",  # 2024-08-08
    "15.10 16.6 17.2 14.15 13.18 12.22",  # 2024-11-21
    "15.14 16.10 17.6 14.19 13.22",  # 2025-08-14
    "15.18 16.14 17.10 18.4",
    "15.20 16.16 17.12 18.7",
]


@pytest.mark.parametrize("day", WAVES)
def test_versions_of_one_day_are_of_one_wave(day: str) -> None:
    assert len({wave(version(one)) for one in day.split()}) == 1


@pytest.mark.parametrize("major", range(10, 21))
def test_waves_of_a_major_are_in_order(major: int) -> None:
    found = [wave(PgVersion(major, minor)) for minor in range(25)]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("server", "installed", "chosen"),
    [
        # the server's own major, older or newer
        ("15.20", "15.20 16.16 18.7", "15.20"),
        ("15.20", "18.7 16.16 15.3", "15.3"),
        ("15.3", "15.20", "15.20"),
        ("16.14", "15.20 16.14 18.4", "16.14"),
        # of several of it, the newest
        ("15.20", "15.18 15.19 15.3", "15.19"),
        # a newer major, if it was released no earlier than the server; the lowest of those
        ("15.18", "16.14", "16.14"),
        ("15.18", "18.4", "18.4"),
        ("15.18", "18.4 16.14", "16.14"),
        ("15.20", "16.14 18.7", "18.7"),
        ("9.6", "15.18", "15.18"),
        # what comes after all that is known
        ("20.1", "20.0", "20.0"),
    ],
)
def test_the_client_that_is_chosen(server: str, installed: str, chosen: str) -> None:
    assert choose(version(server), clients(installed)).version == version(chosen)


@pytest.mark.parametrize(
    ("server", "installed"),
    [
        ("15.20", ""),
        ("16.14", "15.20"),  # an older major cannot
        ("18.0", "15.20 16.16 17.12"),
        # A newer major from before the server's minor: its dump may not load, without any error.
        ("15.20", "16.14"),
        ("15.20", "16.15 17.11 18.6"),
    ],
)
def test_none_fits(server: str, installed: str) -> None:
    with pytest.raises(ClientError) as caught:
        choose(version(server), clients(installed))
    assert f"PostgreSQL {server}" in str(caught.value)
    assert all(one in str(caught.value) for one in installed.split() or ["none"])
    assert f"postgresql-client-{server.split('.', maxsplit=1)[0]}" in caught.value.hint
    assert "PG_BINDIRS" in caught.value.hint


def test_of_equal_ones_the_first() -> None:
    assert choose(version("15.1"), clients("16.9 15.9 15.9 15.8")).bindir == Path("/1")


@pytest.mark.parametrize(("server_minor", "client_minor"), list(product(range(12, 22), range(8, 18))))
def test_16_for_15_only_from_the_same_day_on(server_minor: int, client_minor: int) -> None:
    server, candidates = PgVersion(15, server_minor), clients(f"16.{client_minor}")
    if client_minor + 4 >= server_minor:
        assert choose(server, candidates) == candidates[0]
    else:
        with pytest.raises(ClientError):
            choose(server, candidates)


@pytest.mark.parametrize(
    ("client", "floor"),
    [
        ("15.20", None), ("15.19", "15.20"), ("15.0", "15.20"), ("16.16", None), ("16.14", "16.16"), ("17.11", "17.12"),
        ("18.7", None), ("18.4", "18.7"), ("14.30", "18.7"), ("9.6", "18.7"), ("19.0", None),
    ],
)  # fmt: skip
def test_the_floor_of_security(client: str, floor: str | None) -> None:
    assert below_floor(version(client)) == (version(floor) if floor else None)


def test_the_floors_are_of_one_wave() -> None:
    assert len({wave(one) for one in FLOOR.values()}) == 1


@pytest.mark.parametrize(
    ("major", "installed", "chosen"),
    [
        (15, "15.18 16.14 18.4", "15.18"),
        (15, "18.4 15.3 15.18", "15.18"),
        (17, "15.18 16.14 18.4 18.7 19.0", "18.7"),
        (9, "18.4 15.18", "15.18"),
    ],
)
def test_a_dump_goes_to_its_own_major_or_the_next_newer(major: int, installed: str, chosen: str) -> None:
    assert server_for(major, clients(installed)).version == version(chosen)


@pytest.mark.parametrize("installed", ["", "15.18 16.14"])
def test_a_dump_goes_to_no_older_server(installed: str) -> None:
    with pytest.raises(ClientError, match="dump of PostgreSQL 18") as caught:
        server_for(18, clients(installed))
    assert "postgresql-18" in caught.value.hint
    assert "PG_BINDIRS" in caught.value.hint


def test_a_server_comes_with_all_that_a_throw_away_one_takes(tmp_path: Path) -> None:
    programs = ("initdb", "postgres", "psql")
    for left_out in (None, *programs):
        folder = tmp_path / f"{left_out}"
        folder.mkdir()
        for program in programs:
            (folder / program).touch(mode=0o644 if program == left_out else 0o755)
    found = [Client(bindir=folder, version=PgVersion(18, 7)) for folder in sorted(tmp_path.iterdir())]
    assert servers(found) == (Client(bindir=tmp_path / "None", version=PgVersion(18, 7)),)
