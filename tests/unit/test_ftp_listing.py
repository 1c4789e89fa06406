"""Listings of FTP servers, line by line, and all of one."""

from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.targets import ftp_listing
from asyncbackup.targets.ftp_control import ReplyError
from asyncbackup.targets.ftp_listing import parse_list, parse_mlsd

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=30).filter(
    lambda name: "/" not in name and name == name.strip()
)
FILES = st.dictionaries(NAMES, st.integers(0, 10**15), max_size=8)


async def read(blocks: Iterable[bytes], *, plain: bool) -> dict[str, int]:
    async def blockwise() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    return dict(await ftp_listing.read(blockwise(), plain=plain))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("type=file;size=5;modify=20260131235959; name", ("name", 5)),
        ("Type=File;Size=5; a  b ; c=d", ("a  b ; c=d", 5)),
        ("size=0;type=file;UNIX.mode=0644;unix.owner=x;unique=fd00; n", ("n", 0)),
        ("type=dir;size=4096; folder", None),
        ("type=cdir; .", None),
        ("type=pdir; ..", None),
        ("type=OS.unix=slink:/x;size=3; link", None),
        ("type=file;size=5; /elsewhere/name", None),
    ],
)
def test_lines_of_mlsd(line: str, expected: tuple[str, int] | None) -> None:
    assert parse_mlsd(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "name",
        "type=file;size=5;",
        "type=file; name",
        "type=file;size=-1; name",
        "type=file;size=5k; name",
        "type=file;size=²; name",
        "type=file;size=" + "9" * 5000 + "; name",
        "type=file;size=5; na\x07me",
        "drwxr-xr-x 2 a b 1 Jan 1 00:00 name",
    ],
)
def test_lines_that_are_none_of_mlsd(line: str) -> None:
    with pytest.raises(ValueError, match=r"^no "):
        parse_mlsd(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-rw-r--r--    1 1001     1001            5 Nov 23 09:50 name", ("name", 5)),
        ("-rw-------   1 ftp      ftp      1234567890 Jan  1  2024 a  b", ("a  b", 1234567890)),
        ("-rw-rw-r--+ 1 user domain users 5 Nov 23 09:50 name", ("name", 5)),
        ("-rw-r--r-- 1 owner 5 Nov 23 9:50 name", ("name", 5)),
        ("-rw-r--r-- 5 Nov 23 09:50 name", ("name", 5)),
        ("-rw-r--r-- 1 a b 5 Nov 23 09:50 Nov 23 09:50 name", ("Nov 23 09:50 name", 5)),
        ("drwxr-xr-x    2 1001     1001         4096 Nov 23 09:50 folder", None),
        ("lrwxrwxrwx 1 a b 4 Nov 23 09:50 link -> name", None),
        ("total 12", None),
        ("11-23-26  09:50AM                 5 name", ("name", 5)),
        ("11-23-2026  09:50PM     1,234,567 a b", ("a b", 1234567)),
        ("11-23-26  09:50AM       <DIR>          folder", None),
    ],
)
def test_lines_of_list(line: str, expected: tuple[str, int] | None) -> None:
    assert parse_list(line) == expected


@pytest.mark.parametrize(
    "line", ["name", "<html>", "550 No.", "-rw-r--r--", "11-23-26 09:50AM 5", "- - - - -"]
)
def test_lines_that_are_none_of_list(line: str) -> None:
    with pytest.raises(ValueError, match=r"^no "):
        parse_list(line)


@given(st.text(max_size=100))
def test_any_line_is_a_file_or_none_or_odd(line: str) -> None:
    for parse in (parse_mlsd, parse_list):
        try:
            found = parse(line) if line.strip() else None
        except ValueError:
            continue
        if found is not None:
            name, size = found
            assert name
            assert "/" not in name
            assert name.isascii() or name in line
            assert size >= 0


@given(files=FILES, cut=st.integers(1, 50), plain=st.booleans())
async def test_what_is_listed_does_not_depend_on_how_it_was_cut(
    files: dict[str, int],
    cut: int,
    plain: bool,  # noqa: FBT001
) -> None:
    form = "-rw-r--r-- 1 a b {size} Nov 23 09:50 {name}" if plain else "type=file;size={size}; {name}"
    text = "".join(f"{form.format(size=size, name=name)}\r\n" for name, size in files.items()).encode()
    assert await read([text[at : at + cut] for at in range(0, len(text), cut)], plain=plain) == files


@pytest.mark.parametrize("plain", [True, False])
async def test_an_empty_listing_is_an_empty_folder(plain: bool) -> None:  # noqa: FBT001
    assert await read([], plain=plain) == {}
    assert await read([b"\r\n"], plain=plain) == {}
    assert await read([b"total 0\r\n" if plain else b"type=cdir; .\r\n"], plain=plain) == {}


async def test_odd_lines_among_others_are_passed_over() -> None:
    listing = b"type=file;size=1; a\r\n<odd>\r\ntype=file;size=1; \xff\r\ntype=file;size=2; b\r\n"
    assert await read([listing], plain=False) == {"a": 1, "b": 2}


async def test_a_listing_of_odd_lines_alone_is_no_empty_folder() -> None:
    with pytest.raises(ReplyError, match="no format"):
        await read([b"+i8388621.29609,m824255902,/,\tdir\r\n"], plain=True)
