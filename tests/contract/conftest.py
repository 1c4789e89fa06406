"""Each kind of secondary location in turn."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.places import Place, at_ftps, in_bucket, in_folder, in_memory
from tests.s3_servers import Moto, moto


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(params=["memory", "folder", "ftps", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    match request.param:
        case "memory":
            yield in_memory()
        case "folder":
            folder = tmp_path / "second volume"
            folder.mkdir()
            yield in_folder(folder)
        case "ftps":
            async with at_ftps(tmp_path) as at:
                yield at
        case "s3":
            yield in_bucket(request.getfixturevalue("s3_server"))
