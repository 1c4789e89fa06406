"""A folder at an FTP server as a secondary location: by TLS, unless clear text is asked for."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asyncbackup import threads
from asyncbackup.errors import TargetError
from asyncbackup.model import Secret
from asyncbackup.targets.ftp import Ftp
from asyncbackup.targets.ftp_failures import failing
from asyncbackup.targets.ftp_remote import FtpRemote
from asyncbackup.targets.target import Remote
from asyncbackup.targets.url import ANONYMOUS, FtpUrl

_PASSIVE = {"auto": ("EPSV", "PASV"), "pasv": ("PASV",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How TLS is spoken; where it is not required, ftp:// means clear text."""

    required: bool = True
    verify: Literal["full", "ca", "off"] = "full"
    """Whether the certificate's issuer and name are checked, its issuer, or nothing."""
    ca_file: Path | None = None
    """Who may have issued it; by default, those that the system trusts."""
    server_name: str = ""
    """The name in it; by default, the URL's host."""

    def context(self) -> ssl.SSLContext:
        """Return what connections are made with; raises TargetError where the file is of no use."""
        file = None if self.verify == "off" else self.ca_file
        try:
            context = ssl.create_default_context(cafile=None if file is None else str(file))
        except OSError as error:
            why = "there is no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise TargetError(
                f"{file}: {why}",
                hint="FTP_CA_FILE names a PEM file with the certificates that may sign the FTP server's",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.verify != "full":
            context.check_hostname = False
        if self.verify == "off":
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class Ftps:
    """The location as it is configured."""

    url: FtpUrl
    """User and password in it count for nothing here."""
    user: str
    """Empty for an anonymous login."""
    password: Secret | None
    tls: Tls
    passive: str
    """`auto`, or `pasv` for the older of the two ways to ask for data connections."""
    connect_timeout: float
    """Seconds for each step of connecting."""
    transfer_timeout: float
    """Seconds for each block and each reply."""

    @property
    def label(self) -> str:
        """The URL without user and password."""
        return self.url.label

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Remote]:
        """Connect and log in for the block; raises TargetError."""
        remote = FtpRemote(self.label, self.url.path, self.log_in)
        try:
            await remote.enter()
            yield remote
            await remote.quit()
        finally:
            remote.drop()

    async def log_in(self) -> Ftp:
        """Return a connection that is logged in; raises TargetError."""
        encrypted = self.url.implicit or self.tls.required
        ftp = Ftp(
            ssl_context=await threads.in_thread(None, self.tls.context) if encrypted else None,
            server_name=self.tls.server_name or self.url.host,
            connect_timeout=self.connect_timeout,
            transfer_timeout=self.transfer_timeout,
        )
        ftp.passive = _PASSIVE[self.passive]
        user = self.user or ANONYMOUS
        password = self.password or Secret("anonymous@" if user == ANONYMOUS else "")
        try:
            with failing(self.label, "connecting", "implicit" if self.url.implicit else "connect"):
                await ftp.connect(self.url.host, self.url.port, implicit=self.url.implicit)
            if encrypted and not self.url.implicit:
                with failing(self.label, "beginning TLS", "auth"):
                    await ftp.upgrade_to_tls()
            with failing(self.label, f"logging in as {user}", "login"):
                await ftp.login(user, password.reveal())
        except BaseException:
            ftp.abort_connection()
            raise
        return ftp
