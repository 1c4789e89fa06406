"""The secondary locations that the settings name; a new kind of location is one more entry here."""

from asyncbackup.settings import Settings
from asyncbackup.targets.folder import Folder
from asyncbackup.targets.ftps import Ftps, Tls
from asyncbackup.targets.target import Target
from asyncbackup.targets.url import ANONYMOUS, parse_ftp


def targets(settings: Settings) -> tuple[Target, ...]:
    """Return the configured locations; nothing is connected to yet.

    Raises ConfigError where one needs a package that is not installed.
    """
    return (*_ftp(settings), *_folder(settings), *_s3(settings))


def warnings(settings: Settings) -> tuple[str, ...]:
    """Return what is dangerous about the locations as they are configured."""
    if not settings.ftp_url:
        return ()
    label = parse_ftp(settings.ftp_url.reveal()).label
    if settings.ftp_tls == "off":
        return (f"{label}: backups and the password go there in clear text, since FTP_TLS=off",)
    if settings.ftp_tls_verify == "off":
        return (f"{label}: nobody checks that it is who it says, since FTP_TLS_VERIFY=off",)
    return ()


def _ftp(settings: Settings) -> tuple[Target, ...]:
    if not settings.ftp_url:
        return ()
    url = parse_ftp(settings.ftp_url.reveal())
    return (
        Ftps(
            url,
            settings.ftp_user or url.user or ANONYMOUS,
            settings.ftp_password or url.password,
            Tls(
                required=settings.ftp_tls != "off",
                verify=settings.ftp_tls_verify,
                ca_file=settings.ftp_ca_file,
                server_name=settings.ftp_server_name,
            ),
            passive=settings.ftp_passive,
            connect_timeout=settings.connect_timeout,
            transfer_timeout=settings.transfer_timeout,
        ),
    )


def _folder(settings: Settings) -> tuple[Target, ...]:
    if not settings.secondary_dir:
        return ()
    return (Folder(settings.secondary_dir, settings.backup_file_mode, settings.transfer_timeout),)


def _s3(settings: Settings) -> tuple[Target, ...]:
    if not settings.s3_bucket:
        return ()
    from asyncbackup.targets.s3 import S3  # noqa: PLC0415 - needs the `s3` extra

    return (
        S3(
            endpoint=settings.s3_endpoint,
            bucket=settings.s3_bucket,
            prefix=settings.s3_prefix,
            region=settings.s3_region,
            user=settings.s3_user,
            password=settings.s3_password,
            connect_timeout=settings.connect_timeout,
            transfer_timeout=settings.transfer_timeout,
        ),
    )
