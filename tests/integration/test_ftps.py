"""The FTP location on a server that is as strict as real ones are, and then on ones that fail and lie."""

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import aioftp
import pytest

from asyncbackup.errors import TargetError
from asyncbackup.naming import parse_part
from asyncbackup.samples.ftps_server import certify
from asyncbackup.targets import ftp_listing, ftp_remote
from asyncbackup.targets.ftps import Tls
from asyncbackup.targets.target import BLOCK
from tests.ftp_places import MIB, MUCH, NAME, PASSWORD, Authority, Place, data, fetch, served, upload

# What works


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)
@pytest.mark.parametrize("scheme", ["ftp", "ftps"])
async def test_what_is_stored_comes_back(tmp_path: Path, scheme: str, version: ssl.TLSVersion) -> None:
    authority = Authority(*certify(tmp_path, "127.0.0.1"))
    authority.tls.minimum_version = authority.tls.maximum_version = version
    async with served(authority, tmp_path, implicit=scheme == "ftps") as place:
        for content in (b"", b"one", data(3 * MIB + 1)):
            await place.put(upload(content), scheme=scheme)
            assert place.files() == {NAME: content}
            assert await fetch(place.target(scheme)) == content
        async with place.target(scheme).connect() as remote:
            assert await remote.size(NAME) == 3 * MIB + 1
            assert await remote.sha256(NAME) == hashlib.sha256(data(3 * MIB + 1)).hexdigest()
            assert await remote.list() == {NAME: 3 * MIB + 1}
    first = place.server.log.index("USER backup")
    assert place.server.log[:first] == (["AUTH TLS"] if scheme == "ftp" else [])
    assert place.server.log[first : first + 5] == ["USER backup", "PASS", "PBSZ 0", "PROT P", "TYPE I"]


async def test_aioftp_by_itself_cannot_store_anything_there(place: Place) -> None:
    """The server is as strict as those in use: whoever hides aioftp's dead-lock, hides ours."""
    client = aioftp.Client(connection_timeout=1)
    await client.connect("127.0.0.1", place.server.port)
    await client.upgrade_to_tls(Tls(ca_file=place.authority.file).context())
    await client.login("backup", PASSWORD)
    with pytest.raises(TimeoutError):
        async with client.upload_stream(NAME) as stream:
            await stream.write(b"content")
    client.close()
    assert place.server.log[-1] == "EPSV"
    assert place.files() == {}


async def test_a_data_connection_that_resumes_no_session_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "asyncbackup.targets.ftp.SSLSessionBoundContext", lambda _protocol, context, _session: context
    )
    error = await place.refusal(upload(b"content"))
    assert "522 SSL connection failed: session reuse required" in error.message


async def test_an_upload_is_not_ended_as_complete_when_it_is_cut(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends without TLS saying so is no file to the server."""
    monkeypatch.setattr(
        "asyncbackup.targets.ftp.DataStream.close", lambda self: self.writer.transport.abort()
    )
    assert "426" in (await place.refusal(upload(b"content"))).message
    assert place.files() == {}


async def test_clear_text_goes_where_it_is_asked_for(authority: Authority, tmp_path: Path) -> None:
    async with served(authority, tmp_path, tls=None) as place:
        await place.put(upload(data(MIB)), tls=Tls(required=False))
        assert await fetch(place.target(tls=Tls(required=False))) == data(MIB)
    assert not {"AUTH", "PBSZ", "PROT"} & {line.split()[0] for line in place.server.log}


@pytest.mark.parametrize("path", ["a", "a/b%20c/d", "%2Fa/b"])
async def test_folders_are_made_when_something_is_stored(place: Place, path: str) -> None:
    place.path = path
    async with place.target().connect() as remote:
        assert await remote.list() == {}
        assert await remote.size(NAME) is None
        assert await remote.sha256(NAME) is None
        await remote.delete(NAME)
        assert list(place.server.folder.iterdir()) == []
        await remote.put(upload(b"content"))
        assert await remote.list() == {NAME: 7}
    place.path = unquote(path).lstrip("/")
    assert place.files() == {NAME: b"content"}
    place.path = path
    made = place.server.count("MKD")
    await place.put(upload(b"other"))
    assert place.server.count("MKD") == made


async def test_folders_above_need_no_right_to_be_made(place: Place) -> None:
    (place.server.folder / "a").mkdir()
    place.path = "a/b"
    place.server.deny["MKD"] = "550 Permission denied."
    error = await place.refusal(upload(b"content"))
    assert "550 Permission denied." in error.message
    assert "FTP_URL" in error.hint
    assert not error.retryable
    (place.folder).mkdir()
    await place.put(upload(b"content"))
    assert place.files() == {NAME: b"content"}


async def test_a_server_that_knows_few_commands_will_do(place: Place) -> None:
    place.server.features = ()
    place.server.deny |= {"FEAT": "502 Not implemented.", "SIZE": "500 Unknown command.", "EPSV": "550 No."}
    await place.put(upload(data(MIB)))
    async with place.target().connect() as remote:
        assert await remote.list() == {NAME: MIB}
        assert await remote.size(NAME) == MIB
        assert await remote.sha256(NAME) is None
    assert place.server.count("LIST")
    assert not place.server.count("MLSD")


@pytest.mark.parametrize(
    ("deny", "passive", "asked"),
    [
        ({}, "auto", ["EPSV"]),
        ({}, "pasv", ["PASV"]),
        ({"EPSV": "500 Unknown command."}, "auto", ["EPSV", "PASV"]),
        ({"EPSV": "550 Permission denied."}, "auto", ["EPSV", "PASV"]),
    ],
)
async def test_data_connections_go_to_the_server_itself(
    place: Place, deny: dict[str, str], passive: str, asked: list[str]
) -> None:
    place.server.deny |= deny
    place.server.address = "203,0,113,9"
    await place.put(upload(b"content"), passive=passive)
    assert [line for line in place.server.log if line in {"EPSV", "PASV"}] == asked
    assert place.files() == {NAME: b"content"}


@pytest.mark.parametrize("offered", ["XSHA256", "HASH MD5;SHA-1*;SHA-256;SHA-512;"])
async def test_what_has_arrived_is_compared_by_hash_where_the_server_offers_one(
    place: Place, offered: str
) -> None:
    place.server.features = (offered,)
    await place.put(upload(b"content"))
    assert place.server.count(offered.split(maxsplit=1)[0]) == 1
    place.server.wrong_digest = True
    error = await place.refusal(upload(data(MUCH)))
    assert "SHA-256" in error.message
    assert error.retryable
    assert not error.part
    assert place.files() == {NAME: b"content"}


async def test_a_file_is_replaced_where_renaming_does_not_replace(place: Place) -> None:
    place.server.keeps = True
    await place.put(upload(b"the old one"))
    await place.put(upload(b"the new one"))
    assert place.files() == {NAME: b"the new one"}


@pytest.mark.parametrize("denied", ["RNFR", "RNTO"])
async def test_a_server_that_does_not_rename_is_no_place_for_backups(place: Place, denied: str) -> None:
    (place.folder / NAME).write_bytes(b"half a file of the tool of old")
    place.server.deny[denied] = "550 Permission denied."
    error = await place.refusal(upload(data(MUCH)))
    assert "renaming" in error.message
    assert "right to rename" in error.hint
    assert not error.retryable
    assert place.files() == {NAME: b"half a file of the tool of old"}
    place.server.deny.clear()
    await place.put(upload(b"whole"))
    assert place.files() == {NAME: b"whole"}


async def test_memory_does_not_grow_with_a_file(place: Place) -> None:
    """A server that takes nothing more is not sent anything more."""
    read = 0

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            yield bytes(BLOCK)
            read += BLOCK

    place.server.stall_after = MIB
    error = await place.refusal(replace(upload(b""), size=1 << 40, blocks=blocks), transfer_timeout=2)
    assert "took nothing within 2 s" in error.message
    assert read < 64 * MIB  # what both kernels buffer, and a little of ours


# What fails


async def test_an_upload_that_broke_goes_on_from_where_it_was(place: Place) -> None:
    place.server.cut_after = MUCH
    content = data(2 * MUCH)
    error = await place.refusal(upload(content))
    assert error.message.endswith("the server says: 426 Failure on the data connection.")
    assert error.retryable
    assert parse_part(error.part) == NAME
    assert place.files().keys() == {error.part}
    already = len(place.files()[error.part])
    assert already >= MUCH
    await place.put(upload(content), error.part)
    assert place.server.received[1] == len(content) - already
    assert place.files() == {NAME: content}


async def test_a_small_upload_that_broke_leaves_nothing(place: Place) -> None:
    place.server.cut_after = MIB
    error = await place.refusal(upload(data(4 * MIB)))
    assert error.retryable
    assert not error.part
    assert place.files() == {}


@pytest.mark.parametrize(
    "deny",
    [
        {"REST": "502 Not implemented."},
        {"REST": "451 Append/Restart not permitted, try again"},
        {"SIZE": "550 No such file."},
    ],
)
async def test_an_upload_begins_anew_where_the_server_does_not_go_on(
    place: Place, deny: dict[str, str]
) -> None:
    place.server.cut_after = MUCH
    content = data(2 * MUCH)
    part = (await place.refusal(upload(content))).part
    assert part
    if "SIZE" in deny:
        (place.folder / part).unlink()
    else:
        place.server.deny |= deny
    await place.put(upload(content), part)
    assert place.server.received[-1] == len(content)
    assert place.files() == {NAME: content}


async def test_what_is_longer_than_the_file_is_no_part_of_it(place: Place) -> None:
    part = f"{NAME}.00000000.part"
    (place.folder / part).write_bytes(bytes(MUCH))
    await place.put(upload(b"content"), part)
    assert place.files() == {NAME: b"content"}


async def test_a_part_of_something_else_is_found_out_and_thrown_away(place: Place) -> None:
    part = f"{NAME}.00000000.part"
    (place.folder / part).write_bytes(bytes(MUCH))
    error = await place.refusal(upload(data(2 * MUCH)), part)
    assert error.retryable
    assert not error.part
    assert place.files() == {}


async def test_a_part_that_a_dead_session_still_holds_is_not_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_remote, "_LOCKED", 0.5)
    part = f"{NAME}.00000000.part"
    (place.folder / part).write_bytes(data(MUCH)[:MIB])
    place.server.locks = True
    place.server.writing.add(place.folder / part)
    await place.put(upload(data(MUCH)), part)
    assert place.files() == {NAME: data(MUCH)}


async def test_a_part_outlives_a_try_that_did_not_come_to_it(place: Place) -> None:
    part = f"{NAME}.00000000.part"
    (place.folder / part).write_bytes(data(MUCH)[: 9 * MIB])
    place.server.deny["STOR"] = "426 Not now."
    error = await place.refusal(upload(data(MUCH)), part)
    assert (error.retryable, error.part) == (True, part)
    assert place.files().keys() == {part}


async def test_a_full_server_is_not_tried_again_and_nothing_is_left(place: Place) -> None:
    place.server.full_after = MUCH
    error = await place.refusal(upload(data(2 * MUCH)))
    assert "452 Transfer aborted. No space left on device" in error.message
    assert "REMOTE_RETENTION" in error.hint
    assert not error.retryable
    assert place.files() == {}


@pytest.mark.parametrize("after", [MIB, MUCH])
async def test_a_server_that_stalls_is_not_waited_for_for_ever(place: Place, after: int) -> None:
    place.server.stall_after = after
    error = await place.refusal(upload(data(40 * MIB)), transfer_timeout=2)
    assert "took nothing within 2 s" in error.message
    assert error.retryable


async def test_the_reply_to_a_whole_upload_may_take_longer_than_other_replies(place: Place) -> None:
    place.server.late = 3
    await place.put(upload(b"content"), transfer_timeout=2)
    assert place.files() == {NAME: b"content"}


async def test_a_server_that_never_acknowledges_has_not_stored_anything(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncbackup.targets.ftp.FINAL_REPLY", 1.0)
    place.server.late = 60
    error = await place.refusal(upload(b"content"))
    assert "no reply within 1 s" in error.message
    assert error.retryable
    assert place.files() == {}


@pytest.mark.parametrize("size", [MIB, 2 * MUCH])
async def test_a_server_that_loses_the_end_is_found_out(place: Place, size: int) -> None:
    place.server.lose = 1
    error = await place.refusal(upload(data(size)))
    assert f"{size} bytes were sent, the server has {size - 1} bytes" in error.message
    assert error.retryable
    assert not error.part
    assert place.files() == {}
    assert not place.server.count("RNFR")


@pytest.mark.parametrize("size", [4 * MIB, 3 * MUCH])
async def test_a_server_that_hangs_up_politely_has_not_stored_everything(place: Place, size: int) -> None:
    """asyncio drops what is written after the other side's end, and the server calls the rest complete."""
    place.server.hang_up_after = MIB
    error = await place.refusal(upload(data(size)))
    assert error.retryable
    assert not place.server.count("RNFR")
    assert NAME not in place.files()


async def test_a_server_that_goes_away_during_an_upload_may_be_tried_again(place: Place) -> None:
    content = data(3 * MUCH)

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(content), BLOCK):
            if at == 2 * MUCH:
                await place.server.hang_up()
            yield content[at : at + BLOCK]

    error = await place.refusal(replace(upload(content), blocks=blocks))
    assert error.retryable
    assert error.part
    await place.put(upload(content), error.part)
    assert place.files() == {NAME: content}


@pytest.mark.parametrize("after", [0, MIB, MUCH])
async def test_an_upload_that_is_cancelled_leaves_nothing(place: Place, after: int) -> None:
    reached = asyncio.Event()

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        for _ in range(after // BLOCK):
            yield bytes(BLOCK)
        reached.set()
        await asyncio.Event().wait()

    (place.folder / NAME).write_bytes(b"the old one")
    task = asyncio.create_task(place.put(replace(upload(b""), size=2 * MUCH, blocks=blocks)))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert not hasattr(caught.value, "__notes__")
    assert place.files() == {NAME: b"the old one"}


@pytest.mark.parametrize("command", ["USER", "PROT", "EPSV", "STOR", "SIZE", "RNTO"])
async def test_it_can_be_cancelled_wherever_the_server_does_not_answer(place: Place, command: str) -> None:
    heard = asyncio.Event()
    place.server.silent[command] = heard
    task = asyncio.create_task(place.put(upload(b"content")))
    await heard.wait()
    place.server.silent.clear()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert place.files() == {}


async def test_who_cancels_twice_does_not_stop_the_cleaning_up(place: Place) -> None:
    heard = place.server.silent["DELE"] = asyncio.Event()
    reached = asyncio.Event()

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        yield bytes(BLOCK)
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(place.put(replace(upload(b""), size=MIB, blocks=blocks)))
    for happened in (reached, heard):
        await happened.wait()
        task.cancel()
    await asyncio.sleep(0)
    place.server.resumed.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert place.files() == {}


async def test_no_work_goes_on_after_a_refusal(place: Place) -> None:
    place.server.deny["STOR"] = "553 Could not create file."
    known = asyncio.all_tasks()
    ftp = await place.target().log_in()
    with pytest.raises(aioftp.StatusCodeError):
        await ftp.get_stream(f"STOR {NAME}", "1xx")
    assert len(asyncio.all_tasks() - known) == 1  # the server's
    ftp.abort_connection()


async def test_a_part_that_cannot_be_deleted_is_told_of(place: Place) -> None:
    place.server.cut_after = MIB
    place.server.deny["DELE"] = "450 Busy."
    error = await place.refusal(upload(data(4 * MIB)))
    (part,) = place.files()
    assert any(part in note and "450 Busy." in note for note in error.__notes__)


async def test_a_file_that_cannot_be_read_says_so_itself(place: Place) -> None:
    async def blocks(offset: int) -> AsyncIterator[bytes]:
        yield bytes(BLOCK)
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as caught:
        await place.put(replace(upload(b""), size=MIB, blocks=blocks))
    assert type(caught.value) is OSError
    assert place.files() == {}


# Getting and looking


async def test_a_download_that_breaks_raises(place: Place) -> None:
    await place.put(upload(data(MUCH)))
    place.server.cut_after = MIB
    with pytest.raises(TargetError) as caught:
        await fetch(place.target())
    assert "426" in caught.value.message
    assert caught.value.retryable


async def test_a_download_that_stalls_raises(place: Place) -> None:
    await place.put(upload(data(MUCH)))
    place.server.stall_after = MIB
    with pytest.raises(TargetError, match="sent nothing within 2 s"):
        await fetch(place.target(transfer_timeout=2))


@pytest.mark.parametrize("said", [1, 100])
async def test_a_download_is_as_long_as_the_server_has_said(place: Place, said: int) -> None:
    await place.put(upload(b"content"))
    place.server.deny["SIZE"] = f"213 {said}"
    with pytest.raises(TargetError) as caught:
        await fetch(place.target())
    assert caught.value.retryable is (said > len(b"content"))


async def test_a_reader_may_leave_early_and_go_on_with_something_else(place: Place) -> None:
    await place.put(upload(data(MUCH)))
    async with place.target().connect() as remote:
        async with remote.get(NAME) as blocks:
            assert await anext(aiter(blocks))
        async with remote.get(NAME):
            pass
        assert await remote.list() == {NAME: MUCH}


async def test_what_is_missing_is_said_to_be_missing(place: Place) -> None:
    async with place.target().connect() as remote:
        with pytest.raises(TargetError) as caught:
            async with remote.get(NAME):
                pass
        assert caught.value.missing
        await remote.delete(NAME)
        assert await remote.size(NAME) is None


async def test_what_may_not_be_deleted_is_an_error(place: Place) -> None:
    await place.put(upload(b"content"))
    place.server.deny["DELE"] = "550 Permission denied."
    async with place.target().connect() as remote:
        with pytest.raises(TargetError, match=r"deleting .*550 Permission denied"):
            await remote.delete(NAME)
        await remote.delete("another")


@pytest.mark.parametrize("features", [("MLST type*;size*;",), ()], ids=["MLSD", "LIST"])
async def test_only_files_are_listed(place: Place, features: tuple[str, ...]) -> None:
    place.server.features = features
    for name in ("two words  and two", "Ünï", "50%"):
        (place.folder / name).write_bytes(b"12345")
    (place.folder / "a folder").mkdir()
    (place.folder / os.fsdecode(b"no \xff UTF-8")).write_bytes(b"")
    async with place.target().connect() as remote:
        assert await remote.list() == {"two words  and two": 5, "Ünï": 5, "50%": 5}


async def test_a_listing_may_be_long(place: Place) -> None:
    place.server.listing = (f"type=file;size={n}; file-{n}\r\n".encode() for n in range(100_000))
    async with place.target().connect() as remote:
        assert await remote.list() == {f"file-{n}": n for n in range(100_000)}


@pytest.mark.parametrize(
    ("listing", "complaint"),
    [
        ([b"x" * BLOCK] * 4, "does not end"),
        ([b"type=file;size=1; name\r\n" * 10_000] * 8, "does not end"),
        ([b"<html>\r\n<body>\r\n"], "no format"),
    ],
)
async def test_a_listing_that_is_none_is_refused(
    place: Place, listing: list[bytes], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftp_listing, "_LONGEST", MIB)
    place.server.listing = listing
    async with place.target().connect() as remote:
        with pytest.raises(TargetError, match=complaint):
            await remote.list()


@pytest.mark.parametrize("reply", ["550 No files found.", "450 No files found"])
async def test_a_server_may_say_that_a_listing_is_empty(place: Place, reply: str) -> None:
    place.server.deny["MLSD"] = reply
    async with place.target().connect() as remote:
        assert await remote.list() == {}


async def test_a_listing_that_is_refused_is_not_taken_for_an_empty_one(place: Place) -> None:
    place.server.deny["MLSD"] = "550 Permission denied."
    async with place.target().connect() as remote:
        with pytest.raises(TargetError, match="550 Permission denied"):
            await remote.list()
