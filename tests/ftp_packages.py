"""Programs of Debian and its kin that the tests and benchmarks use, unpacked into a folder of this checkout.

The packages of FTP servers exclude each other, and would each start its server; so they are downloaded with
the libraries that they lack here, and unpacked. `python -m tests.ftp_packages` gets the servers, with names
behind it (`curl lftp`) those programs. It needs apt-get, and root only where no package lists are yet.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES: Mapping[str, Sequence[str]] = {
    "vsftpd": ("vsftpd", "libpam-pwdfile"),
    "proftpd": ("proftpd-core", "proftpd-mod-crypto"),
    "pure-ftpd": ("pure-ftpd",),
    "curl": ("curl",),
    "lftp": ("lftp",),
}
"""What each program comes in."""

SERVERS = ("vsftpd", "proftpd", "pure-ftpd")
_APT = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root")  # the user _apt may not write into a checkout
_BINS = ("usr/sbin", "usr/bin")


def _system() -> str:
    """Name what programs are built for: a checkout may be seen from several containers."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.machine()
    return f"{release.get('ID', 'linux')}-{release.get('VERSION_ID', '')}-{platform.machine()}"


CACHE = Path(__file__).resolve().parents[1] / ".cache" / "ftp-servers" / _system()
ROOT = CACHE / "root"
"""What `/` would be if the packages were installed."""


def program(name: str) -> Path | None:
    """Find a program: the unpacked one, else the machine's own."""
    found = next((ROOT / place / name for place in _BINS if (ROOT / place / name).is_file()), None)
    installed = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return found or (Path(installed) if installed else None)


def libraries() -> str:
    """Return where unpacked programs find what they link to, as LD_LIBRARY_PATH wants it."""
    return ":".join(f"{path}" for place in ("usr/lib", "lib") for path in (ROOT / place).glob("*-linux-*"))


def get(names: Sequence[str]) -> dict[str, str]:
    """Get what is not there yet; return why that failed, by the program's name."""
    failed = {}
    for name in names:
        if program(name):
            continue
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            failed[name] = "this machine has no apt-get"
            continue
        try:
            _unpack(PACKAGES[name])
        except subprocess.CalledProcessError as error:
            failed[name] = f"{error}: {error.stderr.strip()}"
        else:
            if not program(name):
                failed[name] = f"{' and '.join(PACKAGES[name])} came without it"
    return failed


def _unpack(packages: Sequence[str]) -> None:
    """Download packages and what they link to, and unpack them."""
    try:
        wanted = _with_libraries(packages)
        _download(wanted)
    except subprocess.CalledProcessError:
        if os.geteuid() != 0:
            raise
        # No lists, or old ones: the mirror may have newer versions only. Not all sources need be reachable.
        subprocess.run([*_APT, "update"], capture_output=True, check=False)
        wanted = _with_libraries(packages)
        _download(wanted)
    for path in (CACHE / "packages").glob("*.deb"):
        _run(["dpkg", "-x", f"{path}", f"{ROOT}"])
        path.unlink()


def _with_libraries(packages: Sequence[str]) -> list[str]:
    """Return packages with the libraries that an installation would bring along."""
    planned = _run([*_APT, "--simulate", "--no-install-recommends", "install", *packages])
    new = [line.split()[1] for line in planned.splitlines() if line.startswith("Inst ")]
    return [name for name in new if name in packages or (name.startswith("lib") and "perl" not in name)]


def _download(packages: Sequence[str]) -> None:
    place = CACHE / "packages"
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    _run([*_APT, "download", *packages], cwd=place)


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    """Get programs, and tell aloud what this machine can't have; that fails no build, the tests skip it."""
    for name, why in get(sys.argv[1:] or SERVERS).items():
        sys.stderr.write(f"without {name}: {why}\n")


if __name__ == "__main__":
    main()
