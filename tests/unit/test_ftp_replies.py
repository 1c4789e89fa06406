"""Replies of FTP servers, read from whatever bytes come."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from aioftp.common import ThrottleStreamIO
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.targets import ftp_control
from asyncbackup.targets.ftp_control import Control, ReplyError


def receiving(*pieces: bytes) -> Control:
    """Return a connection to which this was sent before the other side hung up."""
    reader = asyncio.StreamReader(limit=ftp_control._LINE)
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    control = Control(ssl_context=None, server_name="", connect_timeout=1, transfer_timeout=1)
    control._stream = cast("ThrottleStreamIO", SimpleNamespace(reader=reader))
    return control


@pytest.mark.parametrize(
    ("sent", "code", "lines"),
    [
        (b"220 Ready.\r\n", "220", ["Ready."]),
        (b"220\r\n", "220", [""]),
        (b"220 Ready.\n", "220", ["Ready."]),
        (b"211-Features:\r\n SIZE\r\n  REST STREAM\r\n211 End\r\n", "211", ["Features:", "SIZE", "REST STREAM", "End"]),
        (b"250-one\r\n250-two\r\n250 three\r\n", "250", ["one", "two", "three"]),
        (b"250-one\r\n250\r\n", "250", ["one", ""]),
        (b"250-digest\r\n555 looks like a reply\r\n\r\n12\r\n250 end\r\n", "250", ["digest", "555 looks like a reply", "", "12", "end"]),
        (b"230-2500 files\r\n2300 bytes\r\n230 Hello\r\n", "230", ["2500 files", "2300 bytes", "Hello"]),
        (b"530 Gr\xfc\xdfe\r\n", "530", ["Gr\ufffd\ufffde"]),
    ],
)  # fmt: skip
async def test_a_reply_is_read_to_its_end(sent: bytes, code: str, lines: list[str]) -> None:
    assert await receiving(sent).parse_response() == (code, lines)


@pytest.mark.parametrize(
    "sent",
    [b"\r\n", b" \r\n", b"2\r\n", b"22\r\n", b"2x0 Ready.\r\n", b"020 Ready.\r\n", b"720 Ready.\r\n", b"HTTP/1.1 400\r\n", "２２０ Ready.\r\n".encode()],  # noqa: RUF001
)  # fmt: skip
async def test_what_is_no_reply(sent: bytes) -> None:
    with pytest.raises(ReplyError, match="no FTP server"):
        await receiving(sent).parse_response()


@pytest.mark.parametrize("sent", [b"", b"220 Rea", b"220-Ready.\r\n", b"220-Ready.\r\n220 \x00"])
async def test_a_reply_that_breaks_off(sent: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        await receiving(sent).parse_response()


@pytest.mark.parametrize(
    "sent", [b"220-" + b"x" * 20_000 + b"\r\n", b"220-\r\n" * 2_000, b"220-\r\n" + b"\r\n" * 2_000]
)
async def test_a_reply_without_end(sent: bytes) -> None:
    with pytest.raises(ReplyError, match="does not end"):
        await receiving(sent).parse_response()


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([b"220", b"-", b" ", b"\r\n", b"\n", b"x", b"\xff"])).map(b"".join)
)
async def test_any_bytes_are_a_reply_or_an_error_of_the_server_s(sent: bytes) -> None:
    try:
        code, lines = await receiving(sent).parse_response()
    except (ReplyError, ConnectionResetError):
        return
    assert len(code) == 3
    assert code.isascii()
    assert code.isdigit()
    assert lines
    assert not any(line.endswith(("\r", "\n")) for line in lines)
    assert sent.startswith(code.encode())


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs"))), min_size=1, max_size=5
    ),
    cuts=st.lists(st.integers(1, 20), min_size=1),
)
async def test_a_reply_does_not_depend_on_how_it_was_cut(texts: list[str], cuts: list[int]) -> None:
    sent = "".join(f"250-{text}\r\n" for text in texts[:-1]).encode() + f"250 {texts[-1]}\r\n".encode()
    pieces: list[bytes] = []
    at = 0
    while at < len(sent):
        step = cuts[len(pieces) % len(cuts)]
        pieces.append(sent[at : at + step])
        at += step
    assert await receiving(*pieces).parse_response() == ("250", texts)
