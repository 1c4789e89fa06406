"""What a throw-away server starts from: an account, binaries that it can run, and a data directory.

The data directory is made by initdb, or copied from a template that initdb has made before: initdb
refuses an account that has no entry in the user database, as under OpenShift, where the server itself
does not mind.
"""

import os
import pwd
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pwd import struct_passwd
from typing import IO

from asyncbackup.errors import ClientError
from asyncbackup.model import PgVersion
from asyncbackup.postgres.client import version_of
from asyncbackup.postgres.folders import DATA, subfolder
from asyncbackup.process import KILL, spawn
from asyncbackup.threads import in_thread

TEMPLATE_SUPERUSER = "asyncbackup"
"""Who the superuser of a template is, and stays only until the copy runs."""

_HBA = b"local all all trust\nhost all all all scram-sha-256\n"
_QUIET_SINCE = 14  # initdb's --no-instructions
_LOG_TAIL = 2000
# What programs need to be found, and an account without an entry to have one: libnss_wrapper.
_INHERITED = ("LD_LIBRARY_PATH", "LD_PRELOAD", "NSS_WRAPPER_PASSWD", "NSS_WRAPPER_GROUP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a server is made, and as whom."""

    base: Path
    account: struct_passwd | None
    env: Mapping[str, str]
    log: IO[bytes]
    """Takes what the server says, and the programs that make it."""

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.base / DATA

    def failure(self, what: str, hint: str = "") -> ClientError:
        """Return an error that ends with what was said last."""
        if self.account and not hint:
            hint = f"as root, the server runs as {self.account.pw_name!r}, who must reach its folder"
        said = tail(Path(self.log.name))
        return ClientError(f"{what}: {said}" if said else what, hint=hint)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return all that a server and its programs get to see: none of our secrets."""
    inherited = {name: environ[name] for name in _INHERITED if name in environ}
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", **inherited}


def account_for(owner: str, template: Path | None) -> struct_passwd | None:
    """Choose the user that the children run as: `owner` if we are root; None means our own.

    Raises ClientError where no server can be made.
    """
    if uid := os.geteuid():
        if template is None:
            try:
                pwd.getpwuid(uid)
            except KeyError:  # initdb looks itself up
                raise ClientError(
                    f"cannot make a PostgreSQL server: user id {uid} has no entry in the user database",
                    hint="name a folder with data directories to copy in VERIFY_TEMPLATES, "
                    "or provide an entry with libnss_wrapper",
                ) from None
        return None
    with suppress(KeyError):
        account = pwd.getpwnam(owner)
        if account.pw_uid != 0:
            return account
    raise ClientError(
        f"cannot make a PostgreSQL server: it refuses to run as root, and there is no user {owner!r}",
        hint=f"run as an ordinary user, or create the user {owner!r}",
    )


async def reachable(bindir: Path, site: Site) -> tuple[Path, PgVersion]:
    """Return a folder of these binaries that the account can run: `bindir`, or else a copy below `base`.

    With the version of the server. Raises ClientError when there is no way.
    """
    try:
        return bindir, await _version(bindir, site)
    except ClientError as error:
        if site.account is None:
            raise
        problem = error
    prefix, package = bindir.parent, bindir.parent.parent
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        # The binaries look for their libraries at $ORIGIN/../../../<package>.libs.
        wheel = site.base / "wheel"
        copied = wheel / package.name / prefix.name / bindir.name
        await in_thread(None, _copy_wheel, {prefix: copied.parent, libraries: wheel / libraries.name}, wheel)
        with suppress(ClientError):
            return copied, await _version(copied, site)
    raise ClientError(
        f"the user {site.account.pw_name!r} cannot run {bindir}/postgres: {problem}",
        hint=f"as root, the server runs as {site.account.pw_name!r}, who must reach its folder",
    ) from problem


async def initialise(
    bindir: Path, version: PgVersion, site: Site, superuser: str, options: Sequence[str]
) -> None:
    """Make the data directory with initdb; raises ClientError."""
    subfolder(site.base, DATA, site.account)
    command = [f"{bindir}/initdb", "-D", f"{site.data}", "-U", superuser, *options]
    command += ["--auth=trust", "--auth-host=scram-sha-256", "--no-sync"]
    command += ["--no-instructions"] if version.major >= _QUIET_SINCE else []
    async with spawn(
        command, env=site.env, stdout=site.log, stderr=site.log, account=site.account, stop=KILL
    ) as child:
        status = await child.wait()
    if status:
        raise site.failure(f"{bindir}/initdb failed")


def copy_template(template: Path, version: PgVersion, site: Site) -> None:
    """Make the data directory by copying one that no server runs on; blocking; raises ClientError."""
    hint = (
        f"VERIFY_TEMPLATES: make it with `initdb -U {TEMPLATE_SUPERUSER} -E UTF8 --locale=C "
        f"--allow-group-access` of PostgreSQL {version.major}, readable to us"
    )
    try:
        major = (template / "PG_VERSION").read_bytes().strip()
        if major != b"%d" % version.major:
            raise ClientError(
                f"the template {template} is of PostgreSQL {major.decode(errors='replace')}", hint=hint
            )
        unwanted = shutil.ignore_patterns("postmaster.pid", "postmaster.opts")
        shutil.copytree(
            template, site.data, dirs_exist_ok=True, ignore=unwanted, copy_function=shutil.copyfile
        )
        (site.data / "pg_hba.conf").write_bytes(_HBA)
        _hand_over(site.data, site.account)
    except (OSError, shutil.Error) as error:
        raise ClientError(f"cannot copy the template {template}: {error}", hint=hint) from error


def tail(log: Path) -> str:
    """Return the end of a log, which a hostile dump may have made long; empty once it is removed."""
    try:
        with log.open("rb") as text:
            text.seek(max(0, log.stat().st_size - _LOG_TAIL))
            return text.read(_LOG_TAIL).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""


async def _version(bindir: Path, site: Site) -> PgVersion:
    version = await version_of(bindir / "postgres", site.env, site.account)
    if version is None:
        raise ClientError(f"{bindir}/postgres is no release of PostgreSQL")
    return version


def _copy_wheel(trees: Mapping[Path, Path], top: Path) -> None:
    for source, target in trees.items():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
    # Our umask, or that of whoever installed the wheel, may close this to everyone else, too.
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            readable = path.stat().st_mode & 0o500
            path.chmod(readable | readable >> 3 | readable >> 6 | 0o200)


def _hand_over(tree: Path, account: struct_passwd | None) -> None:
    """Give a tree to the account alone; its top last, which keeps everyone else out until then."""
    for place, _, files in os.walk(tree, topdown=False):
        for path, mode in (*((Path(place, name), 0o600) for name in files), (Path(place), 0o700)):
            path.chmod(mode)
            if account:
                os.chown(path, account.pw_uid, account.pw_gid)
