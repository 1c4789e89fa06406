"""A bucket at an S3-compatible service, by obstore.

A file appears under its name whole or not at all: the service sees to that. What fits into one part goes in
one request, what is larger as a multipart upload. Each request carries the SHA-256 of what it sends, with its
signature, and the service refuses what does not fit. It tells no whole file's SHA-256 as its own.

What is sent of a large file lies in the bucket, hidden, until the upload is completed or taken back. We take
it back, as long as the service answers; after a crash, a rule of the bucket's must.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from asyncbackup.errors import TargetError
from asyncbackup.model import Secret
from asyncbackup.targets import s3_answers
from asyncbackup.targets.target import BLOCK, Remote, Upload, content
from asyncbackup.threads import see_through

if TYPE_CHECKING:
    from obstore import AsyncWritableFile
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

_MIB = 1024 * 1024
# Amazon takes no smaller parts, and 10,000 of them at most.
_PART = 5 * _MIB
_PARTS = 9_000
# Parts on their way at once: each takes its room in memory, and a service that is far away answers late.
_PARALLEL = 4
_EVER = timedelta(days=3650)
# obstore tries again what is refused at once: for one part, a whole upload need not begin anew. What has
# taken all its time is not tried again.
_RETRY: "Final[RetryConfig]" = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=2), "base": 2},
}
# Seconds for taking back an upload.
_CLEARING = 5.0
# Asked for to see whether we are let in; nobody stores a file under that name.
_NOBODY = "asyncbackup.knocks"
T = TypeVar("T")
_ERRORS = BaseError, OSError, ValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a bucket is, and what opens it."""

    label: str
    service: str
    """URL of the service, with the bucket in its host if `own_host`."""
    own_host: bool
    bucket: str
    start: str
    """What every key begins with."""
    region: str
    key: tuple[str, Secret] | None
    """Access key and its secret; None to find them where Amazon's own programs look."""
    connect_timeout: float
    transfer_timeout: float

    def store(self, seconds: float | None) -> S3Store:
        """Return a client whose requests take so long at most; None limits the wait for what comes next."""
        options: S3Config = {
            "endpoint": self.service,
            "aws_endpoint_url_s3": self.service,  # or the variable of that name would win
            "virtual_hosted_style_request": self.own_host,
            "region": self.region,
            "unsigned_payload": False,
            "disable_bulk_delete": True,  # not every service can, and we delete one at a time
        }
        client: ClientConfig = {
            "allow_http": self.service.startswith("http://"),
            "connect_timeout": timedelta(seconds=self.connect_timeout),
            "timeout": _EVER if seconds is None else timedelta(seconds=seconds),
        }
        if seconds is None:
            client["read_timeout"] = timedelta(seconds=self.transfer_timeout)
        if self.key:
            options["skip_signature"] = False
        return S3Store(
            self.bucket,
            config=options,
            client_options=client,
            retry_config=_RETRY,
            credential_provider=self._credential if self.key else None,
        )

    def _credential(self) -> "S3Credential":
        """Return what was set; nothing from the environment goes with it, which may belong to another key."""
        assert self.key is not None  # noqa: S101
        user, secret = self.key
        return {
            "access_key_id": user,
            "secret_access_key": secret.reveal(),
            "token": None,
            "expires_at": None,
        }


async def open_bucket(access: Access) -> Remote:
    """See whether the service lets us in, and return the bucket; raises TargetError."""
    try:
        answers = access.store(access.transfer_timeout)
        try:
            await obstore.get_async(answers, access.start + _NOBODY)
        except _ERRORS as error:
            # Who may store and not list is told that this is forbidden. A stranger is told another thing.
            if not s3_answers.missing(error) and not s3_answers.denied(error):
                raise
    except _ERRORS as error:
        raise s3_answers.failure("log in at", access.label, error) from error
    return _Bucket(access, answers)


class _Bucket:
    """See `Remote`."""

    def __init__(self, access: Access, answers: S3Store) -> None:
        self._access = access
        self._answers = answers

    async def put(self, upload: Upload, part: str = "") -> None:  # noqa: ARG002 - none is ever left
        size = part_size(upload.size)
        with self._told("store", upload.name):
            seconds = self._access.transfer_timeout * max(1, min(size, upload.size) / _MIB)
            store = self._access.store(seconds)
            file = obstore.open_writer_async(
                store, self._key(upload.name), buffer_size=size, max_concurrency=_PARALLEL
            )
        await self._write(file, upload, size)
        found = await self.size(upload.name)
        if found != upload.size:
            raise TargetError(
                f"{self._access.label}{upload.name} was stored, and has {'no' if found is None else found}"
                f" bytes instead of {upload.size}",
                hint="do not trust this service before you have found out why",
                retryable=True,
            )

    async def _write(self, file: "AsyncWritableFile", upload: Upload, size: int) -> None:
        at = 0
        try:
            async with aclosing(content(upload)) as blocks:
                async for block in blocks:
                    # A multipart upload that is begun must be known by its number to be taken back.
                    begins = at < size <= at + len(block)
                    at += len(block)
                    with self._told("store", upload.name):
                        await (_to_its_end(file.write(block)) if begins else file.write(block))
        except BaseException as error:
            if not await _taken_back(file) and isinstance(error, TargetError):
                error.hint += (
                    "; what was sent may lie hidden in the bucket: have a rule there that removes it"
                )
            raise
        with self._told("store", upload.name):
            await _to_its_end(file.close())

    @asynccontextmanager
    async def get(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        with self._told("read", name, may_be_missing=True):
            found = await obstore.get_async(self._access.store(None), self._key(name))
        size = found.meta["size"]

        async def blocks() -> AsyncGenerator[bytes, None]:
            stream, at = found.stream(BLOCK), 0
            while True:
                with self._told("read", name):
                    piece = memoryview(await anext(stream, b""))
                if not piece:
                    break
                at += len(piece)
                for start in range(0, len(piece), BLOCK):
                    yield bytes(piece[start : start + BLOCK])
            if at != size:
                raise TargetError(
                    f"cannot read {self._access.label}{name}: it ended after {at} of {size} bytes",
                    hint="check the way to the service",
                    retryable=True,
                )

        async with aclosing(blocks()) as its_content:
            yield its_content

    async def size(self, name: str) -> int | None:
        try:
            with self._told("look for", name, may_be_missing=True):
                return (await obstore.head_async(self._answers, self._key(name)))["size"]
        except TargetError as error:
            if error.missing:
                return None
            raise

    async def sha256(self, name: str) -> str | None:  # noqa: ARG002 - see the module
        return None

    async def list(self) -> Mapping[str, int]:
        start = self._access.start
        with self._told("list", ""):
            found = await obstore.list_with_delimiter_async(self._answers, start.rpartition("/")[0] or None)
        sizes = {meta["path"]: meta["size"] for meta in found["objects"]}
        return {
            key.removeprefix(start): size
            for key, size in sizes.items()
            if key.startswith(start) and key != start
        }

    async def delete(self, name: str) -> None:
        try:
            with self._told("delete", name, may_be_missing=True):
                await obstore.delete_async(self._answers, self._key(name))
        except TargetError as error:
            if not error.missing:
                raise

    def _key(self, name: str) -> str:
        return self._access.start + name

    @contextmanager
    def _told(self, what: str, name: str, *, may_be_missing: bool = False) -> Iterator[None]:
        """Put what obstore raises as ours."""
        where = f"{self._access.label}{name}"
        try:
            yield
        except _ERRORS as error:
            if may_be_missing and s3_answers.missing(error):
                raise TargetError(f"{where}: there is no such file", missing=True) from error
            raise s3_answers.failure(what, where, error) from error


def part_size(size: int) -> int:
    """Return how large the parts of a file are, in bytes: as small as they may be, and not too many."""
    return max(_PART, -(-size // (_PARTS * _MIB)) * _MIB)


async def _to_its_end(step: Awaitable[object]) -> None:
    """Wait for what would leave something behind half-way, though not for long once cancelled."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await _done(task)
        raise


async def _taken_back(file: "AsyncWritableFile") -> bool:
    """Abort the upload; return whether the service has confirmed that, if it had begun."""
    task = asyncio.ensure_future(file.__aexit__(TargetError, None, None))
    return await _done(task) and task.exception() is None


async def _done(task: "asyncio.Future[T]") -> bool:
    """Wait a little for the task even when cancelled; then it is ended. Return whether it came to its end."""
    await see_through(asyncio.ensure_future(asyncio.wait([task], timeout=_CLEARING)))
    return not task.cancel()
