"""An S3 service made to fail and lie: it knows just what one client asks for, and does nothing right by chance."""

import asyncio
import hashlib
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from aiohttp import web

ALWAYS = 1_000_000


@dataclass
class Fault:
    """What happens instead, so many times."""

    status: int = 0
    code: str = ""
    """Of the error, in the service's XML."""
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    """Seconds until there is an answer; with nothing else set, it is the right one."""
    cut: bool = False
    """Whether the connection is reset instead."""
    times: int = ALWAYS
    after: int = 0
    """Right answers before that."""


@dataclass
class FaultyS3:
    """The service; `faults` go by what is asked: create, part, complete, abort, put, get, head, list, delete."""

    faults: dict[str, Fault] = field(default_factory=dict)
    lose: int = 0
    """Bytes at the end of every file that are lost in silence."""
    end_early: int = 0
    """Bytes at the end of every answer that are promised, and do not come."""
    stall: int = 0
    """Bytes at the end of every answer that are promised, and not sent for as long as anybody waits."""
    files: dict[str, bytes] = field(default_factory=dict)
    unfinished: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Parts by the numbers of multipart uploads that were neither completed nor aborted."""
    log: list[str] = field(default_factory=list)
    """What was asked."""
    asked: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    """Set when this was asked for the first time."""
    seen: list[web.BaseRequest] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    url: str = ""
    _busy: set[asyncio.Future[web.StreamResponse]] = field(default_factory=set)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FaultyS3"]:
        """Serve for the block; `url` is known in it."""
        server = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await server.setup()
        try:
            await web.TCPSite(server, "127.0.0.1", 0, ssl_context=self.tls).start()
            self.url = f"http{'s' * (self.tls is not None)}://127.0.0.1:{server.addresses[0][1]}"
            yield self
        finally:
            await server.cleanup()

    async def settled(self) -> None:
        """Wait for the end of what was asked, whether or not anybody still waits for the answer."""
        while self._busy:
            await asyncio.wait(self._busy)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.ensure_future(self._serve(request))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)
        return await asyncio.shield(task)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        asked, key = _asked(request), request.path.partition("/")[2].partition("/")[2]
        body = await request.content.read()  # of any length
        self.log.append(asked)
        self.asked[asked].set()
        self.seen.append(request)
        fault = self.faults.get(asked)
        if fault is not None:
            fault.after -= 1
            if fault.after < 0 and fault.times > 0:
                fault.times -= 1
                await asyncio.sleep(fault.delay)
                if fault.cut:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                if fault.status:
                    return _error(fault)
        if request.headers.get("x-amz-content-sha256") not in {hashlib.sha256(body).hexdigest(), None}:
            return _error(Fault(status=400, code="XAmzContentSHA256Mismatch"))
        return await self._answer(asked, key, body, request)

    async def _answer(  # noqa: PLR0911 - one for each thing that is asked
        self, asked: str, key: str, body: bytes, request: web.BaseRequest
    ) -> web.StreamResponse:
        number = request.query.get("uploadId", "")
        match asked:
            case "create":
                number = f"upload-{len(self.log)}"
                self.unfinished[number] = {}
                return _xml(
                    f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
                )
            case "part":
                if number not in self.unfinished:
                    return _error(Fault(status=404, code="NoSuchUpload"))
                self.unfinished[number][int(request.query["partNumber"])] = body
                return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
            case "complete":
                parts = self.unfinished.pop(number)
                self._store(key, b"".join(parts[at] for at in sorted(parts)))
                return _xml('<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')
            case "abort":
                self.unfinished.pop(number, None)
                return web.Response(status=204)
            case "put":
                self._store(key, body)
                return web.Response(headers={"ETag": '"x"'})
            case "delete":
                self.files.pop(key, None)
                return web.Response(status=204)
            case "list":
                start = request.query.get("prefix", "")
                found = "".join(
                    f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
                    for name, data in sorted(self.files.items())
                    if name.startswith(start)
                )
                return _xml(f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")
            case _:
                return await self._content(key, request)

    def _store(self, key: str, data: bytes) -> None:
        self.files[key] = data[: len(data) - self.lose]

    async def _content(self, key: str, request: web.BaseRequest) -> web.StreamResponse:
        data = self.files.get(key)
        if data is None:
            return _error(Fault(status=404, code="NoSuchKey"))
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        if request.headers.get("If-Match", tag) != tag:
            return _error(Fault(status=412, code="PreconditionFailed"))
        headers = {"ETag": tag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        status, of = 200, request.http_range
        if of.start is not None:
            headers["Content-Range"] = (
                f"bytes {of.start}-{of.stop - 1 if of.stop else len(data) - 1}/{len(data)}"
            )
            status, data = 206, data[of]
        headers["Content-Length"] = f"{len(data)}"
        if request.method == "HEAD":
            return web.Response(headers=headers)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        await response.write(data[: max(0, len(data) - self.end_early - self.stall)])
        if self.stall:
            await asyncio.sleep(3600)
        if self.end_early:
            assert request.transport is not None
            request.transport.close()
        return response


def _asked(request: web.BaseRequest) -> str:
    query = request.query
    if request.method == "GET":
        return "list" if "list-type" in query else "get"
    if request.method == "POST":
        return "create" if "uploads" in query else "complete"
    if "uploadId" in query:
        return "part" if request.method == "PUT" else "abort"
    return request.method.lower()


def _xml(text: str) -> web.Response:
    return web.Response(
        text=f'<?xml version="1.0" encoding="UTF-8"?>\n{text}', content_type="application/xml"
    )


def _error(fault: Fault) -> web.Response:
    text = fault.body
    if fault.code:
        text = (
            f'<?xml version="1.0"?><Error><Code>{fault.code}</Code><Message>{fault.code} in words.</Message>'
            "<RequestId>1</RequestId></Error>"
        )
    return web.Response(status=fault.status, text=text, headers=fault.headers)
