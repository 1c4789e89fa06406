"""Load one backup over several connections, as `asyncbackup restore` does: for restore.py to time.

Arguments: file, host, port, user, database, connections; the password comes from PGPASSFILE.
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from asyncbackup.errors import DamagedError
from asyncbackup.model import Credentials, DatabaseSpec
from asyncbackup.postgres import parallel
from asyncbackup.postgres.connect import connection, endpoint
from asyncbackup.stream import Progress
from asyncbackup.unpack import Unpacked, open_backup


def whole(unpacked: Unpacked) -> None:
    """Raise DamagedError unless the file holds a whole dump."""
    if problem := unpacked.problem or unpacked.scan.problem:
        raise DamagedError(problem)


async def main() -> None:
    path, host, port, user, dbname, jobs = sys.argv[1:]
    at = endpoint(
        DatabaseSpec(host, int(port), dbname), Credentials(user=user, password=None), os.environ, 10.0
    )
    with ThreadPoolExecutor(1) as executor, open_backup(Path(path)) as source:
        loaded = await parallel.load(
            source,
            lambda: connection(at, answer=None),
            int(jobs),
            subject=dbname,
            digests=False,  # which `asyncbackup restore` has taken before
            progress=Progress(),
            executor=executor,
            accept=whole,
        )
    print(f"{loaded.seconds:.3f} s, {loaded.unpacked.scan.rows} rows", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main())
