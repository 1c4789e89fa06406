"""Real FTP servers on loopback, each in a folder of its own, with the TLS policy that it comes with.

That policy is the point: vsftpd and ProFTPD refuse a data connection that does not resume the session of the
control connection, none of them begins TLS there before it has the command, and each ends it in its own way.
"""

import contextlib
import functools
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

import trustme

from tests import ftp_packages
from tests.processes import alive, gone

Kind = Literal["vsftpd", "proftpd", "proftpd-digest", "pure-ftpd"]
"""`proftpd-digest` is ProFTPD with mod_digest: it tells the hashes of its files."""
Version = Literal["1.2", "1.3"]
Certificate = Literal["good", "expired", "self-signed", "misnamed"]

KINDS: tuple[Kind, ...] = get_args(Kind)
VERSIONS: tuple[Version, ...] = get_args(Version)

# vsftpd logs in users of the system whose home is there; nobody has none, and daemon no password but this.
USER = "daemon"
PASSWORD = "p@s:s/w#1?%20 &é\"'\\x"
_HASH = (
    "$6$rounds=1000$asyncbackup"
    "$DxwmKdcwbTsdnrdWlZQj2ufBhfFtYR2yGerAPP.Cot.vxCDman.fRu3vld2FGbn8QOmQR8sWLccmG..fY9Pz1/"
)  # of PASSWORD, by crypt(3)

_PROGRAMS: dict[Kind, str] = {
    "vsftpd": "vsftpd",
    "proftpd": "proftpd",
    "proftpd-digest": "proftpd",
    "pure-ftpd": "pure-ftpd",
}
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PURE_STATE = Path("/var/run/pure-ftpd")
_STARTED = 20.0
_LISTEN = "0A"
_PAM_FOLDER = b"/etc/pam.d"
_PAM_FOLDER_HERE = b"././/pam.d"  # of the same length, and relative to where the server is started


class NotStartedError(Exception):
    """A server did not come up; what it said is in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FtpServer:
    """A running server; `home` is the folder that a login leads to."""

    kind: Kind
    host: str
    port: int
    home: Path
    ca_file: Path
    implicit: bool
    user: str
    process: subprocess.Popen[bytes]
    logs: tuple[Path, ...]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def root(self) -> str:
        """The path of `home` as an absolute path is understood: Pure-FTPd locks its users in there."""
        return "" if self.kind == "pure-ftpd" else f"{self.home}"

    def url(self, path: str = "", *, password: str = PASSWORD, host: str = "") -> str:
        """Return the URL of a folder, with user and password."""
        host = host or (f"[{self.host}]" if ":" in self.host else self.host)
        login = f"{quote(self.user, safe='')}:{quote(password, safe='')}"
        return f"ftp{'s' * self.implicit}://{login}@{host}:{self.port}/{path}"

    def files(self, folder: str = "") -> dict[str, int]:
        """Return the files of a folder and their lengths, by looking at the disk."""
        return {path.name: path.stat().st_size for path in (self.home / folder).iterdir() if path.is_file()}

    def log(self) -> str:
        """Return all that the server has said."""
        return "".join(path.read_text(errors="replace") for path in self.logs if path.exists())

    def sessions(self) -> list[int]:
        """Return the processes that serve connections."""
        return _descendants(self.pid)

    def cut(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End what serves the connections that there are; the server itself goes on."""
        self._signal(number, self.sessions())

    def kill(self) -> None:
        """Kill the server and what serves its connections; nobody listens any more when this returns."""
        everyone = [self.pid, *self.sessions()]
        self._signal(signal.SIGKILL, everyone)
        assert gone(lambda: any(map(alive, everyone)))

    def freeze(self) -> None:
        """Stop the server and its sessions: connections stay, and nothing answers any more."""
        self._signal(signal.SIGSTOP, [self.pid, *self.sessions()])

    def thaw(self) -> None:
        """Let what was frozen go on."""
        self._signal(signal.SIGCONT, [*self.sessions(), self.pid])

    def end(self) -> None:
        """End all of it; nothing of it runs afterwards."""
        self.thaw()  # what is stopped would not answer a signal
        while (sessions := self.sessions()) and self.process.poll() is None:
            self._signal(signal.SIGKILL, sessions)  # first, so that the server itself waits for them
            time.sleep(0.005)
        self.process.kill()  # all that it would tidy up lies in a folder that goes as well
        self.process.wait()

    @staticmethod
    def _signal(number: int, pids: Sequence[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(frozen=True, slots=True)
class _Site:
    """What a server is made from: its folder, its certificate, whom files belong to."""

    folder: Path
    home: Path
    pem: Path
    host: str
    port: int
    account: pwd.struct_passwd

    @property
    def group(self) -> str:
        return grp.getgrgid(self.account.pw_gid).gr_name


def lacking(kind: Kind) -> str:
    """Say what this machine lacks for a server, or nothing."""
    if not ftp_packages.program(_PROGRAMS[kind]):
        return f"there is no {_PROGRAMS[kind]} here, and `make ftp-servers` could not get it"
    if os.geteuid() != 0 and not kind.startswith("proftpd"):
        return f"{_PROGRAMS[kind]} wants to be started by root"
    return ""


@functools.cache
def can_mount() -> bool:
    """Whether a server can be given a disk of its own, which only it sees."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def serving(
    kind: Kind,
    *options: str,
    tls: Version = "1.3",
    certificate: Certificate = "good",
    host: str = "127.0.0.1",
    disk: int = 0,
    folder: Path | None = None,
) -> Iterator[FtpServer]:
    """Run a server; `options` are lines of its configuration, or of Pure-FTPd's command line.

    A line replaces the server's own of the same key. `disk` is the size of a disk that it shall have all to
    itself, in bytes; only the server sees it. `{home}` in an option is the folder that a login leads to.
    """
    with tempfile.TemporaryDirectory(prefix="asyncbackup-ftp-", dir=folder) as name:
        base = Path(name)
        base.chmod(0o711)  # whom sessions run as must reach the home below it
        account = pwd.getpwnam(USER) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        home = base / "home"
        home.mkdir(mode=0o755)
        os.chown(home, account.pw_uid, account.pw_gid)
        pem = base / "server.pem"
        pem.touch(0o600)
        pem.write_bytes(certificates()[certificate])
        (base / "ca.pem").write_bytes(certificates()["ca"])
        site = _Site(base, home, pem, host, _free_port(host), account)
        with _state_of_its_own(kind):
            command = _command(kind, site, [option.replace("{home}", f"{home}") for option in options])
            if disk:
                command = _on_a_disk(command, site, disk)
            process = _start(command, site, tls)
            server = FtpServer(
                kind=kind,
                host=host,
                port=site.port,
                home=home,
                ca_file=base / "ca.pem",
                implicit=any("implicit" in option.lower() for option in options),
                user=USER,
                process=process,
                logs=tuple(base / log for log in ("output", "log", "tls.log")),
            )
            try:
                _await(server)
                yield server
            finally:
                server.end()


@functools.cache
def certificates() -> dict[Literal[Certificate, "ca"], bytes]:
    """Return the CA's certificate, and certificates for servers, each with its key before it."""
    ca, rsa = trustme.CA(), trustme.KeyType.RSA
    past = datetime(2021, 1, 1, tzinfo=UTC)
    leaves: dict[Certificate, trustme.LeafCert] = {
        "good": ca.issue_cert("localhost", "127.0.0.1", "::1", key_type=rsa),
        "expired": ca.issue_cert("localhost", "127.0.0.1", not_after=past, key_type=rsa),
        "misnamed": ca.issue_cert("elsewhere.example", key_type=rsa),
    }
    own = trustme.CA(key_type=rsa)
    return {
        "ca": ca.cert_pem.bytes(),
        "self-signed": own.private_key_pem.bytes() + own.cert_pem.bytes(),
        **{name: leaf.private_key_and_cert_chain_pem.bytes() for name, leaf in leaves.items()},
    }


def _command(kind: Kind, site: _Site, options: Sequence[str]) -> list[str]:
    """Write a server's files, and return what starts it in the foreground."""
    program = ftp_packages.program(_PROGRAMS[kind])
    assert program, lacking(kind)
    match kind:
        case "vsftpd":
            return _vsftpd(program, site, options)
        case "pure-ftpd":
            return _pure_ftpd(program, site, options)
        case _:
            digest = ["mod_digest.c"] if kind == "proftpd-digest" else []
            return _proftpd(program, site, ["mod_tls.c", *digest], options)


def _vsftpd(program: Path, site: _Site, options: Sequence[str]) -> list[str]:
    listen = (
        "listen_ipv6=YES\nlisten=NO\nlisten_address6" if ":" in site.host else "listen=YES\nlisten_address"
    )
    empty = site.folder / "empty"
    empty.mkdir()
    _login_by_password_file(site.folder)
    config = _written(
        site.folder / "vsftpd.conf",
        f"""\
        {listen}={site.host}
        listen_port={site.port}
        background=NO
        anonymous_enable=NO
        local_enable=YES
        write_enable=YES
        local_umask=022
        local_root={site.home}
        pam_service_name=vsftpd-test
        secure_chroot_dir={empty}
        ssl_enable=YES
        require_ssl_reuse=YES
        rsa_cert_file={site.pem}
        debug_ssl=YES
        xferlog_enable=YES
        xferlog_std_format=NO
        log_ftp_protocol=YES
        vsftpd_log_file={site.folder / "log"}
        """,
        options,
        "=",
    )
    return [f"{program}", f"{config}"]


def _login_by_password_file(folder: Path) -> None:
    """Have PAM ask a file in the folder; a copy of libpam looks for its configuration there, not in /etc."""
    users = folder / "pam-users"
    users.touch(0o600)
    users.write_text(f"{USER}:{_HASH}\n")
    module = next(ftp_packages.ROOT.rglob("pam_pwdfile.so"), "pam_pwdfile.so")
    services = folder / "pam.d"
    services.mkdir()
    (services / "vsftpd-test").write_text(
        f"auth required {module} pwdfile {users}\n"
        "account required pam_permit.so\n"
        "session required pam_permit.so\n"
    )
    linked = subprocess.run(
        ["ldd", f"{ftp_packages.program('vsftpd')}"],
        env={"PATH": _PATH, "LD_LIBRARY_PATH": ftp_packages.libraries()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    match = re.search(r"libpam\.so\.0 => (\S+)", linked)
    assert match, linked
    library = Path(match[1]).read_bytes()
    assert _PAM_FOLDER in library
    (folder / "lib").mkdir()
    (folder / "lib" / "libpam.so.0").write_bytes(library.replace(_PAM_FOLDER, _PAM_FOLDER_HERE))


def _proftpd(program: Path, site: _Site, modules: Sequence[str], options: Sequence[str]) -> list[str]:
    users, groups = site.folder / "passwd", site.folder / "group"
    users.touch(0o600)
    ids = f"{site.account.pw_uid}:{site.account.pw_gid}"
    users.write_text(f"{USER}:{_HASH}:{ids}::{site.home}:/bin/sh\n")
    groups.touch(0o600)
    groups.write_text(f"{site.group}:x:{site.account.pw_gid}:\n")
    place = ftp_packages.ROOT / "usr" / "lib" / "proftpd"
    loaded = "".join(f"LoadModule {module}\n" for module in modules)
    config = _written(
        site.folder / "proftpd.conf",
        f"""\
        ServerName test
        ServerType standalone
        DefaultAddress {site.host}
        SocketBindTight on
        Port {site.port}
        UseIPv6 {"on" if ":" in site.host else "off"}
        UseReverseDNS off
        PidFile {site.folder / "pid"}
        ScoreboardFile {site.folder / "scoreboard"}
        ControlsEngine off
        DelayEngine off
        WtmpLog off
        AuthOrder mod_auth_file.c
        AuthUserFile {users}
        AuthGroupFile {groups}
        RequireValidShell off
        User {site.account.pw_name}
        Group {site.group}
        Umask 022
        AllowOverwrite on
        SystemLog {site.folder / "log"}
        TransferLog none
        TLSEngine on
        TLSRequired on
        TLSRSACertificateFile {site.pem}
        TLSRSACertificateKeyFile {site.pem}
        TLSLog {site.folder / "tls.log"}
        """,
        options,
        " ",
    )
    where = f"ModulePath {place}\n" if place.is_dir() else ""
    config.write_text(where + loaded + config.read_text())
    return [f"{program}", "-n", "-c", f"{config}"]


def _pure_ftpd(program: Path, site: _Site, options: Sequence[str]) -> list[str]:
    users, database = site.folder / "pureftpd.passwd", site.folder / "pureftpd.pdb"
    users.touch(0o600)
    quota = next((option.removeprefix("quota=") for option in options if option.startswith("quota=")), "")
    ids = f"{site.account.pw_uid}:{site.account.pw_gid}"
    limits = f":::::{quota and 1000}:{quota}:::::::"  # of pure-pw(8): files, bytes
    users.write_text(f"{USER}:{_HASH}:{ids}::{site.home}/./:{limits}\n")
    maker = ftp_packages.program("pure-pw")
    assert maker
    subprocess.run(
        [maker, "mkdb", database, "-f", users], env=_environment(site, "1.3"), capture_output=True, check=True
    )
    basic = ["-S", f"{site.host},{site.port}", "-l", f"puredb:{database}", "-E", "-u", "1", "-H"]
    tls = ["-2", f"{site.pem}", "-Y", "2"]
    own = ["-f", "none", "-g", f"{site.folder / 'pid'}"]
    wanted = [word for option in options if not option.startswith("quota=") for word in option.split()]
    return [f"{program}", *basic, *own, *(tls[:2] if "-Y" in wanted else tls), *wanted]


def _written(path: Path, lines: str, options: Sequence[str], separator: str) -> Path:
    """Write a configuration: our lines, but for those whose key is among the options, and the options."""
    replaced = {option.partition(separator)[0] for option in options}
    own = [line.strip() for line in lines.splitlines()]
    kept = [line for line in own if line.partition(separator)[0] not in replaced]
    path.write_text("".join(f"{line}\n" for line in [*kept, *options]))
    return path


def _start(command: Sequence[str], site: _Site, tls: Version) -> subprocess.Popen[bytes]:
    with (site.folder / "output").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=site.folder,
            env=_environment(site, tls),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _environment(site: _Site, tls: Version) -> dict[str, str]:
    """Return the environment of a server: where its libraries are, and up to which version it speaks TLS."""
    limits = site.folder / "openssl.cnf"
    limits.write_text(
        "openssl_conf = start\n[start]\nssl_conf = ssl\n[ssl]\nsystem_default = limits\n"
        f"[limits]\nMinProtocol = TLSv1.2\nMaxProtocol = TLSv{tls}\n"
    )
    path = f"{site.folder / 'lib'}:{ftp_packages.libraries()}"
    return {"PATH": _PATH, "LD_LIBRARY_PATH": path, "OPENSSL_CONF": f"{limits}"}


def _on_a_disk(command: Sequence[str], site: _Site, size: int) -> list[str]:
    """Return a command that runs another one with a file system of its own as its home."""
    own = f"size={size},mode=0755,uid={site.account.pw_uid},gid={site.account.pw_gid}"
    script = f'mount -t tmpfs -o {own} tmpfs "$0" && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, f"{site.home}", *command]


@contextmanager
def _state_of_its_own(kind: Kind) -> Iterator[None]:
    """Take away the folder in which Pure-FTPd keeps who is logged in, unless it was there before."""
    present = _PURE_STATE.exists()
    try:
        yield
    finally:
        if kind == "pure-ftpd" and not present:
            shutil.rmtree(_PURE_STATE, ignore_errors=True)


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((host, 0))
        port: int = free.getsockname()[1]
        return port


def _await(server: FtpServer) -> None:
    """Wait until the server listens; it is not connected to, which would keep ProFTPD busy for a while."""
    end = time.monotonic() + _STARTED
    while time.monotonic() < end and server.process.poll() is None:
        if server.port in _listening():
            return
        time.sleep(0.005)
    raise NotStartedError(f"{server.kind} did not start: {server.log()}")


def _listening() -> set[int]:
    """Return the ports of this machine on which somebody listens (proc(5), net/tcp)."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            ports |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == _LISTEN}
    return ports


def _descendants(pid: int) -> list[int]:
    """Return the living descendants of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found
