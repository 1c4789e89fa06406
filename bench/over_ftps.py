"""Store one file by FTPS, as asyncbackup stores a backup elsewhere: for upload.py to time.

Arguments: file, the authority's certificate, a file for the result, and `digest` if what is read is to be
hashed on the way, as `asyncbackup upload` does. The URL with user and password comes from FTP_URL.
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
    digest = hashlib.sha256() if sys.argv[4:] == ["digest"] else None
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

    def read(source: int) -> bytes:
        content = os.read(source, _READ)
        if digest:
            digest.update(content)
        return content

    with ThreadPoolExecutor(1) as executor:

        async def blocks(offset: int) -> AsyncIterator[bytes]:
            source = os.open(path, os.O_RDONLY)
            try:
                os.lseek(source, offset, os.SEEK_SET)
                while content := await in_thread(executor, read, source):
                    for at in range(0, len(content), BLOCK):
                        yield content[at : at + BLOCK]
            finally:
                os.close(source)

        # The servers of the benchmark offer no hashes, so that this one is not compared with anything.
        upload = Upload(name=path.name, size=path.stat().st_size, sha256="0" * 64, blocks=blocks)
        start, cpu = time.monotonic(), time.process_time()
        async with target.connect() as remote:
            await remote.put(upload)
        took = {"wall": time.monotonic() - start, "cpu": time.process_time() - cpu}
    result.write_text(json.dumps(took))


if __name__ == "__main__":
    asyncio.run(main())
