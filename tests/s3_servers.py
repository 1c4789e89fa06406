"""An S3 service on loopback: moto's server, in a process of its own, looked at from beside with Amazon's client."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from asyncbackup.model import Secret
from asyncbackup.targets.s3 import S3

REGION = "eu-central-1"
_STARTED = 60.0


@dataclass(frozen=True)
class Moto:
    """A running server."""

    url: str

    def client(self, kind: str = "s3") -> Any:
        """Return Amazon's own client."""
        return boto3.client(
            kind,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"max_attempts": 0}),
        )

    def bucket(self, name: str) -> "Bucket":
        """Make a bucket."""
        client = self.client()
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        return Bucket(self, name, client)

    def ask_for_rights(self, *, asked: bool) -> None:
        """Check signatures and rights from now on, or no more."""
        data = b"0" if asked else b"inf"
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data, {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()


@dataclass(frozen=True)
class Bucket:
    """A bucket, looked at from beside."""

    server: Moto
    name: str
    client: Any

    def target(self, prefix: str = "", **changed: Any) -> S3:
        """Return it as a secondary location."""
        options: dict[str, Any] = {
            "endpoint": self.server.url,
            "bucket": self.name,
            "prefix": prefix,
            "region": REGION,
            "user": "test",
            "password": Secret("test"),
            "connect_timeout": 10.0,
            "transfer_timeout": 60.0,
        }
        return S3(**options | changed)

    def files(self) -> dict[str, bytes]:
        """Return the content of all objects by their whole keys."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {key: self.client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def unfinished(self) -> list[str]:
        """Return the keys of multipart uploads that were neither completed nor aborted."""
        return [u["Key"] for u in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[Moto]:
    """Run a server for the block."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    command = "import sys; from moto.server import main; main(sys.argv[1:])"
    log = folder / "moto.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", command, "-H", "127.0.0.1", "-p", f"{port}"],
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": f"{folder}"},
        )
    try:
        _wait(process, port, log)
        yield Moto(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + _STARTED
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text(errors="replace")
        time.sleep(0.05)
    raise AssertionError(f"moto did not start within {_STARTED:g} s")
