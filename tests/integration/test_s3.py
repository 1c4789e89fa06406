"""S3 as a secondary location, where it refuses, lies, hangs and goes away; and what goes out to it."""

import asyncio
import os
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from asyncbackup.errors import ConfigError, TargetError
from asyncbackup.model import Secret
from asyncbackup.targets.s3 import S3
from tests.faulty_s3 import Fault, FaultyS3
from tests.s3_servers import REGION, Moto, moto
from tests.targets import fetch, store, upload

MIB = 1024 * 1024
NAME = "host-db_2026-01-31_23-59-59.sql.gz"
SECRET = "sEcReT/of+the&test"
LARGE = bytes(range(256)) * (12 * MIB // 256)


def target(url: str, **changed: Any) -> S3:
    options: dict[str, Any] = {
        "endpoint": url,
        "bucket": "backups",
        "prefix": "db/",
        "region": REGION,
        "user": "our-key",
        "password": Secret(SECRET),
        "connect_timeout": 5.0,
        "transfer_timeout": 20.0,
    }
    return S3(**options | changed)


@pytest.fixture
async def service() -> AsyncIterator[FaultyS3]:
    async with FaultyS3().serving() as serving:
        yield serving


@pytest.fixture(autouse=True)
def no_keys_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)


REFUSALS = [
    (403, "AccessDenied", False, "let this access key read, write"),
    (403, "InvalidAccessKeyId", False, "S3_USER and S3_PASSWORD"),
    (403, "SignatureDoesNotMatch", False, "S3_USER and S3_PASSWORD"),
    (403, "RequestTimeTooSkewed", False, "clock"),
    (400, "ExpiredToken", False, "get a new one"),
    (404, "NoSuchBucket", False, "S3_BUCKET"),
    (400, "AuthorizationHeaderMalformed", False, "S3_REGION"),
    (400, "EntityTooLarge", False, "as large"),
    (507, "XMinioStorageFull", False, "free some space"),
    (501, "NotImplemented", False, "another kind"),
    (400, "RequestTimeout", True, ""),
    (400, "BadDigest", True, ""),
    (503, "SlowDown", True, ""),
    (500, "InternalError", True, ""),
    (429, "TooManyRequests", True, ""),
    (418, "NeverHeardOf", False, ""),
    (500, "NeverHeardOf", True, ""),
]


@pytest.mark.parametrize(("status", "code", "retryable", "hint"), REFUSALS)
@pytest.mark.parametrize("asked", ["put", "part"])
async def test_what_the_service_refuses_is_told(
    service: FaultyS3, asked: str, status: int, code: str, *, retryable: bool, hint: str
) -> None:
    service.faults[asked] = Fault(status, code)
    with pytest.raises(TargetError) as caught:
        await store(target(service.url), NAME, LARGE if asked == "part" else b"content")
    error = caught.value
    assert f"cannot store {service.url}/backups/db/{NAME}: {code}: {code} in words." == error.message
    assert (error.retryable, error.missing) == (retryable, False)
    assert hint in error.hint
    assert SECRET not in f"{error!r} {error.hint} {error.__cause__!r}"
    assert (service.files, service.unfinished) == ({}, {})


@pytest.mark.parametrize("asked", ["head", "list", "delete", "get"])
async def test_every_question_may_be_refused(service: FaultyS3, asked: str) -> None:
    async with target(service.url).connect() as remote:
        service.faults[asked] = Fault(403, "AccessDenied")

        async def get() -> None:
            async with remote.get(NAME):
                pass

        steps = {
            "head": remote.size(NAME),
            "list": remote.list(),
            "delete": remote.delete(NAME),
            "get": get(),
        }
        step = steps.pop(asked)
        for other in steps.values():
            other.close()
        with pytest.raises(TargetError) as caught:
            await step
    assert not caught.value.retryable
    assert not caught.value.missing


@pytest.mark.parametrize(
    ("status", "body", "headers", "retryable", "hint"),
    [
        (404, "<html>no such page</html>", {}, False, ""),
        (405, "<html>not here</html>", {}, False, "no S3 service"),
        (502, "<html>bad gateway</html>", {}, True, ""),
        (301, "", {}, False, "S3_REGION"),
        (401, "", {}, False, "S3_USER"),
    ],
)
async def test_what_is_no_answer_of_such_a_service_is_told_in_a_line(
    service: FaultyS3, status: int, body: str, headers: dict[str, str], *, retryable: bool, hint: str
) -> None:
    service.faults["put"] = Fault(status, body=body, headers=headers)
    with pytest.raises(TargetError) as caught:
        await store(target(service.url), NAME, b"content")
    assert caught.value.retryable == retryable
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert "html" not in caught.value.message
    assert not caught.value.missing


@pytest.mark.parametrize(
    ("code", "hint"),
    [("NoSuchBucket", "S3_BUCKET"), ("InvalidAccessKeyId", "S3_USER"), ("SignatureDoesNotMatch", "S3_USER")],
)
async def test_who_is_not_let_in_is_told_at_once(service: FaultyS3, code: str, hint: str) -> None:
    service.faults["get"] = Fault(404 if code == "NoSuchBucket" else 403, code)
    with pytest.raises(TargetError) as caught:
        async with target(service.url).connect():
            pytest.fail("we are in")
    assert caught.value.message == f"cannot log in at {service.url}/backups/db/: {code}: {code} in words."
    assert hint in caught.value.hint


async def test_who_may_only_store_is_let_in(service: FaultyS3) -> None:
    service.faults["get"] = Fault(403, "AccessDenied")
    await store(target(service.url), NAME, b"content")
    assert service.files == {f"db/{NAME}": b"content"}


@pytest.mark.parametrize("asked", ["put", "create", "part", "complete", "head", "get"])
@pytest.mark.parametrize("fault", [Fault(503, "SlowDown"), Fault(cut=True)], ids=["slow", "reset"])
async def test_what_passes_at_once_needs_no_new_upload(service: FaultyS3, asked: str, fault: Fault) -> None:
    data = b"content" if asked == "put" else LARGE
    service.faults[asked] = replace(fault, times=2)
    await store(target(service.url), NAME, data)
    assert await fetch(target(service.url), NAME) == data
    assert service.unfinished == {}


@pytest.mark.parametrize("asked", ["put", "create", "part", "complete", "head"])
async def test_a_service_that_goes_away_may_be_tried_again(service: FaultyS3, asked: str) -> None:
    service.faults[asked] = Fault(cut=True)
    with pytest.raises(TargetError) as caught:
        await store(target(service.url), NAME, b"content" if asked == "put" else LARGE)
    assert caught.value.retryable
    assert "connection was lost" in caught.value.message
    assert service.unfinished == {}


@pytest.mark.parametrize("asked", ["put", "part", "create", "complete", "head"])
async def test_a_service_that_hangs_is_not_waited_for_for_ever(service: FaultyS3, asked: str) -> None:
    service.faults[asked] = Fault(delay=3600)
    begun = time.monotonic()
    with pytest.raises(TargetError) as caught:
        await store(target(service.url, transfer_timeout=0.2), NAME, b"x" if asked == "put" else LARGE)
    assert time.monotonic() - begun < 30
    assert caught.value.retryable
    assert "in time" in caught.value.message
    assert "TRANSFER_TIMEOUT" in caught.value.hint
    assert service.unfinished == {} or asked == "create"


@pytest.mark.parametrize("after", [0, 1, 2], ids=["first", "second", "last"])
async def test_an_upload_that_fails_in_any_part_is_taken_back(service: FaultyS3, after: int) -> None:
    service.faults["part"] = Fault(400, "InvalidPart", after=after)
    with pytest.raises(TargetError):
        await store(target(service.url), NAME, LARGE)
    assert (service.files, service.unfinished) == ({}, {})
    assert "abort" in service.log


async def test_an_upload_that_cannot_be_taken_back_is_told_of(service: FaultyS3) -> None:
    service.faults = {"part": Fault(400, "InvalidPart"), "abort": Fault(403, "AccessDenied")}
    with pytest.raises(TargetError) as caught:
        await store(target(service.url), NAME, LARGE * 3)
    assert "have a rule there" in caught.value.hint
    assert len(service.unfinished) == 1


@pytest.mark.parametrize("asked", ["create", "part", "complete"])
async def test_an_upload_that_is_cancelled_at_any_step_leaves_nothing_behind(
    service: FaultyS3, asked: str
) -> None:
    service.faults[asked] = Fault(delay=1)
    # With more parts than go at once, the last has not been sent by then.
    task = asyncio.create_task(store(target(service.url), NAME, LARGE * (3 if asked == "part" else 1)))
    await asyncio.wait_for(service.asked[asked].wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await service.settled()
    assert service.unfinished == {}
    if asked != "complete":  # it may have been done by then, and then it is whole
        assert service.files == {}


@pytest.mark.parametrize("data", [b"content", LARGE], ids=["small", "large"])
async def test_a_service_that_loses_the_end_is_found_out(service: FaultyS3, data: bytes) -> None:
    service.lose = 1
    with pytest.raises(TargetError) as caught:
        await store(target(service.url), NAME, data)
    assert f"has {len(data) - 1} bytes instead of {len(data)}" in caught.value.message
    assert "trust" in caught.value.hint


@pytest.mark.parametrize("lost", ["end_early", "stall"])
async def test_a_download_that_breaks_off_is_no_end(service: FaultyS3, lost: str) -> None:
    service.files[f"db/{NAME}"] = LARGE
    setattr(service, lost, MIB)
    found = bytearray()

    async def read() -> None:
        async with (
            target(service.url, transfer_timeout=0.5).connect() as remote,
            remote.get(NAME) as blocks,
        ):
            async for block in blocks:
                found.extend(block)

    with pytest.raises(TargetError) as caught:
        await read()
    assert caught.value.retryable
    assert len(found) < len(LARGE)
    assert LARGE.startswith(found)


@pytest.mark.parametrize("lost", ["end_early", "stall"])
async def test_a_download_that_breaks_off_once_goes_on(service: FaultyS3, lost: str) -> None:
    service.files[f"db/{NAME}"] = LARGE
    setattr(service, lost, MIB)
    found = bytearray()
    async with target(service.url, transfer_timeout=0.5).connect() as remote, remote.get(NAME) as blocks:
        async for block in blocks:
            found.extend(block)
            setattr(service, lost, 0)
    assert found == LARGE


async def test_a_download_of_what_is_replaced_meanwhile_is_no_mixture(service: FaultyS3) -> None:
    service.files[f"db/{NAME}"] = LARGE
    service.end_early = MIB
    found = bytearray()

    async def read() -> None:
        async with target(service.url).connect() as remote, remote.get(NAME) as blocks:
            async for block in blocks:
                found.extend(block)
                service.files[f"db/{NAME}"] = LARGE[::-1]

    with pytest.raises(TargetError):
        await read()
    assert LARGE.startswith(found)


async def test_a_download_may_take_longer_than_an_answer(service: FaultyS3) -> None:
    service.files[f"db/{NAME}"] = LARGE
    async with target(service.url, transfer_timeout=0.5).connect() as remote, remote.get(NAME) as blocks:
        number = 0
        async for block in blocks:
            number += len(block)
            await asyncio.sleep(0.04)
    assert number == len(LARGE)


async def test_nobody_there_is_told(unused: int) -> None:
    with pytest.raises(TargetError) as caught:
        await store(target(f"http://127.0.0.1:{unused}"), NAME, b"content")
    assert caught.value.retryable
    assert "it cannot be reached: Connection refused" in caught.value.message
    assert "S3_ENDPOINT" in caught.value.hint


@pytest.fixture
def unused(unused_tcp_port: int) -> int:
    return unused_tcp_port


@pytest.mark.parametrize("name", ["127.0.0.1", "elsewhere.example"])
async def test_the_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(tls)
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    async with FaultyS3(tls=tls).serving() as service:
        with pytest.raises(TargetError) as caught:
            await store(target(service.url), NAME, b"content")
        assert "certificate is not accepted (UnknownIssuer)" in caught.value.message
        assert not caught.value.retryable
        monkeypatch.setenv("SSL_CERT_FILE", f"{trusted}")
        if name == "127.0.0.1":
            await store(target(service.url), NAME, b"content")
            assert service.files == {f"db/{NAME}": b"content"}
        else:
            with pytest.raises(TargetError, match="NotValidForName"):
                await store(target(service.url), NAME, b"content")
            assert service.log == []


async def test_a_service_without_tls_is_not_spoken_to_in_clear_text(service: FaultyS3) -> None:
    with pytest.raises(TargetError) as caught:
        await store(target(service.url.replace("http:", "https:")), NAME, b"content")
    assert "does not speak TLS" in caught.value.message
    assert service.log == []


async def test_what_is_sent_is_signed_with_our_key_whatever_the_environment_says(
    service: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "another-key",
        "AWS_SECRET_ACCESS_KEY": "another-secret",
        "AWS_SESSION_TOKEN": "another-token",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_UNSIGNED_PAYLOAD": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_REGION": "another-region",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }.items():
        monkeypatch.setenv(name, value)
    await store(target(service.url), NAME, LARGE)
    assert {"create", "part", "complete", "head", "get"} <= set(service.log)
    for request in service.seen:
        assert "Credential=our-key/" in request.headers["Authorization"]
        assert f"/{REGION}/s3/" in request.headers["Authorization"]
        assert "x-amz-security-token" not in request.headers
        assert "UNSIGNED" not in request.headers["x-amz-content-sha256"]
        assert request.path.startswith("/backups/db/")
        assert "another" not in f"{request.headers}"


async def test_without_a_key_of_ours_the_environments_is_taken(
    service: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    await store(target(service.url, user="", password=None), NAME, b"content")
    assert all(
        "Credential=key-of-the-machine/" in request.headers["Authorization"] for request in service.seen
    )


async def test_no_key_at_all_is_told(service: FaultyS3, unused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{unused}")
    with pytest.raises(TargetError) as caught:
        await store(target(service.url, user="", password=None), NAME, b"content")
    assert "no access key was found" in caught.value.message
    assert "S3_USER and S3_PASSWORD" in caught.value.hint


async def test_a_bucket_may_be_part_of_the_host(service: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", service.url)
    await store(target("http://backups.s3.example"), NAME, b"content")
    assert {request.headers["Host"] for request in service.seen} == {"backups.s3.example"}
    assert {request.path for request in service.seen if request.method == "PUT"} == {f"/db/{NAME}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with moto(tmp_path_factory.mktemp("moto")) as serving:
        yield serving


async def test_a_bucket_that_is_not_there_is_told(server: Moto) -> None:
    with pytest.raises(TargetError) as caught:
        async with target(server.url, bucket="not-there").connect() as remote:
            await remote.list()
    assert "NoSuchBucket" in caught.value.message
    assert "S3_BUCKET" in caught.value.hint


async def test_rights_are_what_the_service_says(server: Moto) -> None:
    bucket = server.bucket("rights")
    iam = server.client("iam")
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":"*"}]}'
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    bucket.put(f"db/{NAME}", b"content")
    user, secret = key["AccessKeyId"], key["SecretAccessKey"]
    reader = bucket.target("db/", user=user, password=Secret(secret))
    server.ask_for_rights(asked=True)
    try:
        assert await fetch(reader, NAME) == b"content"
        with pytest.raises(TargetError, match="AccessDenied"):
            await store(reader, NAME, b"other")
        with pytest.raises(TargetError, match="SignatureDoesNotMatch") as caught:
            await fetch(replace(reader, password=Secret("wrong" + secret)), NAME)
        assert secret not in f"{caught.value} {caught.value.__cause__}"
        with pytest.raises(TargetError, match="InvalidAccessKeyId"):
            await fetch(replace(reader, user="AKIANOBODYKNOWSTHIS0"), NAME)
    finally:
        server.ask_for_rights(asked=False)


async def test_a_folder_is_flat_and_has_nothing_of_its_neighbours(server: Moto) -> None:
    bucket = server.bucket("neighbours")
    for key in ("db/", f"db/{NAME}", "db/deeper/x", "db2/x", "db", "x", "db/deeper/"):
        bucket.put(key, b"content")
    for prefix, expected in {
        "db/": {NAME: 7},
        "/db//": {NAME: 7},
        "": {"db": 7, "x": 7},
        "d": {"b": 7},
        "db/host": {NAME.removeprefix("host"): 7},
        "db/deeper/": {"x": 7},
        "absent/": {},
    }.items():
        async with bucket.target(prefix).connect() as remote:
            assert await remote.list() == expected, prefix


async def test_a_listing_goes_on_beyond_a_page(server: Moto) -> None:
    bucket = server.bucket("pages")
    names = [f"{number:04d}" for number in range(1001)]
    for name in names:
        bucket.put(f"db/{name}", b"x")
    async with bucket.target("db/").connect() as remote:
        assert await remote.list() == dict.fromkeys(names, 1)


@pytest.mark.parametrize("changed", [{"user": ""}, {"password": Secret("")}, {"password": None}])
def test_half_a_key_is_no_key(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="one of them is set"):
        target("http://127.0.0.1:1", **changed)


def test_without_obstore_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        target("http://127.0.0.1:1")
    assert caught.value.hint == "pip install 'asyncbackup[s3]'"


def test_obstore_is_not_loaded_for_others() -> None:
    code = "import sys, asyncbackup.targets.s3; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("endpoint", "bucket", "prefix", "label", "service", "own"),
    [
        ("", "b", "db/", "s3://b/db/", "https://b.s3.eu-central-1.amazonaws.com", True),
        ("", "b.c", "", "s3://b.c/", "https://s3.eu-central-1.amazonaws.com", False),
        ("http://minio:9000", "b", "db/", "http://minio:9000/b/db/", "http://minio:9000", False),
        ("HTTPS://rgw.example/", "b", "x", "https://rgw.example/b/x", "https://rgw.example", False),
        (
            "https://b.rgw.example",
            "b",
            "//a//b/",
            "https://b.rgw.example/a/b/",
            "https://b.rgw.example",
            True,
        ),
        ("https://u:secret@h/s3/", "b", "", "https://h/s3/b/", "https://h/s3", False),
        ("https://[::1]:9000", "b", "", "https://[::1]:9000/b/", "https://[::1]:9000", False),
    ],
)
def test_where_it_is(endpoint: str, bucket: str, prefix: str, label: str, service: str, *, own: bool) -> None:
    made = target(endpoint, bucket=bucket, prefix=prefix)
    assert made.label == label
    assert made.address == (service, own)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 45 * 1024 * MIB, 100 * 1024 * MIB, 5 * 1024 * 1024 * MIB])
def test_parts_are_as_small_as_they_may_be(size: int) -> None:
    from asyncbackup.targets.s3_bucket import part_size  # noqa: PLC0415

    part = part_size(size)
    assert part >= 5 * MIB
    assert size / part <= 10_000
    assert part == 5 * MIB or size / (part - MIB) > 9_000


async def test_an_upload_is_limited_by_its_size_not_as_a_whole(service: FaultyS3) -> None:
    """A slow part has the time of all its blocks."""
    service.faults["part"] = Fault(delay=0.8)
    async with target(service.url, transfer_timeout=0.4).connect() as remote:
        await remote.put(upload(NAME, LARGE))
    assert service.files == {f"db/{NAME}": LARGE}
