"""PGREQUIREAUTH and PGCHANNELBINDING hold for every connection: no password goes to whoever asks for it."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from asyncbackup.errors import AccessError
from asyncbackup.model import DatabaseSpec
from asyncbackup.postgres.handshake import Requirement, Watch, allowed
from tests.invariants import Site
from tests.servers import Databases, Postgres

SECRET = "open-sesame"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!l", 4 + len(body)) + body


def asking(code: int, rest: bytes = b"") -> bytes:
    return message(b"R", struct.pack("!l", code) + rest)


SCRAM = asking(10, b"SCRAM-SHA-256\0\0")
READY = message(b"Z", b"I")


@contextmanager
def impostor(answer: bytes) -> Iterator[tuple[DatabaseSpec, list[bytes]]]:
    """A server without TLS that answers each login with these bytes, and keeps what it is told after that."""
    told: list[bytes] = []

    def talk(client: socket.socket) -> None:
        with client:
            client.recv(8)
            client.sendall(b"N")
            client.recv(10_000)
            client.sendall(answer)
            while data := client.recv(10_000):
                told.append(data)

    def serve() -> None:
        while True:
            try:
                talk(server.accept()[0])
            except ConnectionError:
                continue
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        worker = threading.Thread(target=serve)
        worker.start()
        try:
            yield DatabaseSpec("127.0.0.1", server.getsockname()[1], "app"), told
        finally:
            server.shutdown(socket.SHUT_RDWR)
            worker.join()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (asking(3), "password"),
        (asking(5, b"salt"), "md5"),
        (asking(0) + READY, "none"),
        (READY, "no login"),
        (SCRAM + asking(0) + READY, "without proof"),
    ],
    ids=["clear text", "md5", "nothing", "not even that", "unproven"],
)
def test_what_is_not_allowed_is_not_answered(site: Site, answer: bytes, said: str) -> None:
    with impostor(answer) as (spec, told):
        site.use(POSTGRESQL_USER="x", POSTGRESQL_PASSWORD=SECRET, PGREQUIREAUTH="scram-sha-256")
        done = site.configure(spec).backup()
    assert (done.returncode, done.only["category"]) == (1, "access"), done.stderr
    assert said in done.only["error"]
    assert "PGREQUIREAUTH" in done.only["error"]
    assert SECRET.encode() not in b"".join(told)
    if answer[:1] == b"R" and answer[8] in {3, 5}:
        assert [data for data in told if data[:1] == b"p"] == []


def test_the_impostor_would_get_it_otherwise(site: Site) -> None:
    with impostor(asking(3)) as (spec, told):
        site.use(POSTGRESQL_USER="x", POSTGRESQL_PASSWORD=SECRET, CONNECT_TIMEOUT="2s").configure(
            spec
        ).backup()
    assert SECRET.encode() in b"".join(told)


@pytest.mark.parametrize("required", ["scram-sha-256", "!password,!md5", "none,scram-sha-256"])
def test_a_server_that_asks_for_what_is_allowed(site: Site, server: Postgres, required: str) -> None:
    with Databases(server) as database:
        site.use(server, PGREQUIREAUTH=required).configure(database(sql="CREATE TABLE t (a int)")).good()


@pytest.mark.parametrize("required", ["md5", "!scram-sha-256"])
def test_a_server_that_asks_for_something_else(site: Site, pg15: Postgres, required: str) -> None:
    done = site.use(pg15, PGREQUIREAUTH=required).configure(pg15.spec("postgres")).backup()
    assert (done.returncode, done.only["category"]) == (1, "access"), done.stderr
    site.check(done)


@pytest.mark.parametrize("text", ["scram", "md5,!password", "md5, password", ",", "SCRAM-SHA-256"])
def test_what_makes_no_sense_is_not_taken_for_a_permission(text: str) -> None:
    with pytest.raises(AccessError, match="PGREQUIREAUTH"):
        allowed(text)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (SCRAM + asking(11, b"x" * 90) + asking(12, b"y" * 40) + asking(0) + message(b"S", b"a\0b\0") + READY, ""),
        (message(b"N", b"SNOTICE\0\0") + asking(3), "password"),
        (SCRAM + asking(3), "password"),
        (b"R" + struct.pack("!ll", 1 << 30, 10), "a message that is far too long"),
    ],
)  # fmt: skip
def test_messages_come_in_pieces(said: bytes, problem: str, size: int) -> None:
    watch = Watch(Requirement(allowed("scram-sha-256")))
    found = [watch.feed(said[at : at + size]) for at in range(0, len(said), size)]
    assert next((one for one in found if one), "") == problem


def test_a_bound_channel_needs_a_certificate(site: Site, pg15: Postgres) -> None:
    done = site.use(pg15, PGCHANNELBINDING="require").configure(pg15.spec("postgres")).backup()
    assert (done.returncode, done.only["category"]) == (1, "access"), done.stderr
    assert "PGSSLMODE=verify-full" in done.only["hint"]
    site.check(done)
