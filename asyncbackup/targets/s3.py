"""An S3-compatible service as a secondary location, by obstore, which the extra `s3` installs."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from asyncbackup.errors import ConfigError
from asyncbackup.model import Secret
from asyncbackup.targets.target import Remote


@dataclass(frozen=True, slots=True)
class S3:
    """A bucket, or what in it begins with a prefix; raises ConfigError where obstore is not installed."""

    endpoint: str
    """URL of the service; empty for Amazon's. Its host may begin with the bucket."""
    bucket: str
    prefix: str
    region: str
    user: str
    """Access key; empty to find one where Amazon's own programs look."""
    password: Secret | None
    connect_timeout: float
    transfer_timeout: float
    """Seconds for each answer, and for each MiB that one request sends."""

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            raise ConfigError(["S3_USER and S3_PASSWORD: one of them is set, and the other is not"])
        if importlib.util.find_spec("obstore") is None:
            raise ConfigError(
                ["S3_BUCKET: storing there needs a package that is not installed"],
                hint="pip install 'asyncbackup[s3]'",
            )

    @property
    def label(self) -> str:
        """The URL of the folder, without a user; `s3://` stands for Amazon."""
        if not self.endpoint:
            return f"s3://{self.bucket}/{self.start}"
        service, own = self.address
        return f"{service}/{self.start}" if own else f"{service}/{self.bucket}/{self.start}"

    @property
    def address(self) -> tuple[str, bool]:
        """The service's URL, and whether the bucket is part of the host there, instead of the path."""
        if not self.endpoint:
            own = "." not in self.bucket  # a certificate's wildcard stands for what has no dots
            return f"https://{f'{self.bucket}.' * own}s3.{self.region}.amazonaws.com", own
        parts = urlsplit(self.endpoint)
        host = parts.netloc.rpartition("@")[2]
        own = host.lower().startswith(f"{self.bucket.lower()}.")
        return f"{parts.scheme.lower()}://{host}{parts.path.rstrip('/')}", own

    @property
    def start(self) -> str:
        """What every key begins with: the prefix, without slashes that stand for nothing."""
        *folders, rest = self.prefix.split("/")
        return "/".join([*filter(None, folders), rest])

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Remote]:
        """Ask whether the service lets us in; there is no connection that lasts."""
        from asyncbackup.targets import s3_bucket  # noqa: PLC0415 - it needs the extra

        user, secret = self.user, self.password
        service, own = self.address
        yield await s3_bucket.open_bucket(
            s3_bucket.Access(
                label=self.label,
                service=service,
                own_host=own,
                bucket=self.bucket,
                start=self.start,
                region=self.region,
                key=(user, secret) if secret else None,
                connect_timeout=self.connect_timeout,
                transfer_timeout=self.transfer_timeout,
            )
        )
