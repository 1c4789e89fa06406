"""Store one file by FTPS, as asyncbackup stores a backup elsewhere: for upload.py to time.

Arguments: file, the authority's certificate, a file for the result, and `digest` if the file is to be read
and hashed in a thread, as `asyncbackup upload` does. The URL with user and password comes from FTP_URL.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from asyncbackup import configuration
from asyncbackup.targets.ftps import Ftps, Tls
from asyncbackup.targets.target import BLOCK, Upload
from asyncbackup.targets.url import parse_ftp
from asyncbackup.threads import in_thread

_READ = 4 * BLOCK


async def main() -> None:
    path, ca_file, result = (Path(argument) for argument in sys.argv[1:4])
    defaults = configuration.load({})
    url = parse_ftp(os.environ["FTP_URL"])
    target = Ftps(
        url,
        url.user or "",
        url.password,
        Tls(ca_file=ca_file),
        passive=defaults.ftp_passive,
        connect_timeout=defaults.connect_timeout,
        transfer_timeout=defaults.transfer_timeout,
    )

    with ThreadPoolExecutor(1) as executor, path.open("rb", buffering=0) as source:

        async def blocks(offset: int) -> AsyncIterator[bytes]:
            source.seek(offset)
            while block := source.read(BLOCK):
                yield block

        def read(digest: "hashlib._Hash") -> bytes:
            content = source.read(_READ)
            digest.update(content)
            return content

        async def hashed(offset: int) -> AsyncIterator[bytes]:
            source.seek(offset)
            digest = hashlib.sha256()
            while content := await in_thread(executor, read, digest):
                for at in range(0, len(content), BLOCK):
                    yield content[at : at + BLOCK]

        # The servers of the benchmark offer no hashes, so that this one is not compared with anything.
        content = hashed if sys.argv[4:] == ["digest"] else blocks
        upload = Upload(name=path.name, size=path.stat().st_size, sha256="0" * 64, blocks=content)
        start, cpu = time.monotonic(), time.process_time()
        async with target.connect() as remote:
            await remote.put(upload)
        took = {"wall": time.monotonic() - start, "cpu": time.process_time() - cpu}
    result.write_text(json.dumps(took))


if __name__ == "__main__":
    asyncio.run(main())
