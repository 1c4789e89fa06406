"""Reading a file back: all that can be known of it from its bytes alone."""

import gzip
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup import scanner, unpack
from asyncbackup.stream import Progress

DUMPS = sorted((Path(__file__).parents[1] / "data" / "dumps").glob("pg*.sql"))


def read(path: Path, data: bytes, **options: object) -> tuple[unpack.Unpacked, bytes]:
    path.write_bytes(data)
    taken: list[bytes] = []
    with FileIO(path) as source:
        found = unpack.unpack(source, Progress(), sink=lambda piece: taken.append(bytes(piece)), **options)  # type: ignore[arg-type]
    return found, b"".join(taken)


def without_commands(text: bytes) -> bytes:
    """Return a dump without psql's own commands: the frame that pg_dump puts around it."""
    key = re.search(rb"^\\restrict (\w+)$", text, re.MULTILINE)
    if key is None:
        return text
    return text.replace(key[0] + b"\n", b"").replace(b"\\unrestrict " + key[1] + b"\n", b"")


@pytest.mark.parametrize("dump", DUMPS, ids=lambda path: path.stem)
def test_what_was_packed_comes_back_and_is_understood(dump: Path, tmp_path: Path) -> None:
    text = dump.read_bytes()
    data = gzip.compress(text)
    found, back = read(tmp_path / "file", data)
    assert back == without_commands(text)
    assert (found.problem, found.scan.problem) == ("", "")
    assert found.bytes == len(data)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    expected = scanner.Scanner()
    expected.feed(text)
    assert found.scan == expected.finish()


@pytest.mark.parametrize("dump", DUMPS, ids=lambda path: path.stem)
def test_a_second_reading_need_not_count_and_hash_again(dump: Path, tmp_path: Path) -> None:
    data = gzip.compress(dump.read_bytes())
    first, back = read(tmp_path / "file", data)
    second, again = read(tmp_path / "file", data, digests=False)
    assert again == back
    assert (second.sha256, second.bytes, second.problem) == (first.sha256, first.bytes, first.problem)
    unhashed = [replace(block, rows=0, blake3=blake3().hexdigest()) for block in first.scan.blocks]
    assert second.scan == replace(first.scan, blocks=tuple(unhashed))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda one: b"", "it is empty"),
        (lambda one: one[:-1], "cut off"),
        (lambda one: one[:5], "cut off"),
        (lambda one: one + b"\0", "follows the end"),
        (lambda one: one + b"junk", "follows the end"),
        (lambda one: one + one[:7], "cut off"),
        (lambda one: one[:-6] + bytes([one[-6] ^ 1]) + one[-5:], "damaged"),
        (lambda one: one[:-2] + bytes([one[-2] ^ 1]) + one[-1:], "damaged"),
        (lambda one: b"text" + one, "damaged"),
        (lambda one: one + one, ""),
    ],
)
def test_whatever_is_no_whole_gzip_file_is_named(
    make: Callable[[bytes], bytes], problem: str, tmp_path: Path
) -> None:
    found, _ = read(tmp_path / "file", make(gzip.compress(b"SELECT 1;\n" * 1000)))
    assert problem in found.problem
    assert bool(found.problem) == bool(problem)


COMMANDS = (
    b"\\! touch pwned\n",
    b"\\o pwned\n",
    b"\\copy t to program 'id'\n",
    b"\\connect other\n",
    b"\\restrict again\n",
    b"\\unrestrict wrong\n",
    b"\\unrestrict `touch pwned`\n",
    b"SELECT 1 \\gexec\n",
    b"SELECT 1; \\! touch pwned\n",
    b"\\! touch pwned " + b"x" * 10_000 + b"\n",
)
"""Nothing of the kind stands in any dump of pg_dump's, and psql would obey."""


class Tapped:
    """Keeps what a tap gets."""

    def __init__(self) -> None:
        self.whole = bytearray()

    def text(self, piece: memoryview) -> None:
        self.whole += piece

    def end(self) -> None: ...

    def copy(self, schema: str, table: str, columns: tuple[str, ...]) -> None: ...

    def rows(self, piece: memoryview) -> None:
        self.whole += piece

    def rows_end(self) -> None: ...


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:20].decode())
@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 18])
@pytest.mark.parametrize("key", [b"", b"\\restrict Abc123\n"])
def test_nothing_is_handed_on_from_a_psql_command_on(
    command: bytes, piece: int, key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to a sink nor to a tap, however the dump was cut: it may be feeding psql."""
    monkeypatch.setattr(unpack, "_PIECE", piece)
    before, after = b"\nSET client_encoding = 'UTF8';\nSELECT 'before';\n", b"SELECT 'after';\n"
    tap = Tapped()
    dump = b"--\n" + key + before + command + after * 2000
    found, handed_on = read(tmp_path / "file", gzip.compress(dump), tap=tap)
    assert "psql command" in found.scan.problem or "restrict line" in found.scan.problem
    for got in (handed_on, bytes(tap.whole)):
        assert b"after" not in got
        assert b"\\" not in got
        assert (b"--\n" + before + b"SELECT 1").startswith(got.rstrip(b"; "))
    assert found.scan.bytes == len(dump), "it is read to its end all the same"
    assert found.problem == ""


def test_what_is_not_understood_yet_is_not_handed_on_either(tmp_path: Path) -> None:
    """psql could make something of the beginning of a line."""
    _, back = read(tmp_path / "file", gzip.compress(b"SELECT 1;\n\\! touch pw"))
    assert back == b"SELECT 1;\n"


def test_a_bomb_comes_in_pieces(tmp_path: Path) -> None:
    sizes: list[int] = []
    (tmp_path / "file").write_bytes(gzip.compress(bytes(50_000_000)))
    with FileIO(tmp_path / "file") as source:
        found = unpack.unpack(source, Progress(), sink=lambda piece: sizes.append(len(piece)))
    assert found.problem == ""
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= 1 << 20


class Recorder:
    """Puts a dump together again from what a tap gets."""

    def __init__(self) -> None:
        self.whole = bytearray()
        self.statements: list[bytes] = []
        self._begun = 0

    def text(self, piece: memoryview) -> None:
        self.whole += piece

    def end(self) -> None:
        self.statements.append(bytes(self.whole[self._begun :]))
        self._begun = len(self.whole)

    def copy(self, schema: str, table: str, columns: tuple[str, ...]) -> None:
        del schema, table, columns
        self.end()
        self.whole += b"\n"

    def rows(self, piece: memoryview) -> None:
        self.whole += piece

    def rows_end(self) -> None:
        self.whole += b"\\.\n"
        self._begun = len(self.whole)


@pytest.mark.parametrize("dump", DUMPS, ids=lambda path: path.stem)
@settings(deadline=None)
@given(cuts=st.lists(st.integers(1, 70_000), max_size=20))
def test_a_tap_gets_everything_wherever_it_was_cut(dump: Path, cuts: list[int]) -> None:
    text = dump.read_bytes()
    tap = Recorder()
    reader = scanner.Scanner(tap)
    position = 0
    for cut in cuts:
        reader.feed(text[position : position + cut])
        position += cut
    reader.feed(text[position:])
    assert reader.finish().problem == ""
    assert bytes(tap.whole) == without_commands(text)
    assert all(statement.endswith(b";") for statement in tap.statements)
