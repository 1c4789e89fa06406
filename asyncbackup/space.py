"""Whether a backup can fit, by what the last one took and what the server says of the database."""

from asyncbackup import inventory, volume
from asyncbackup.errors import SpaceError
from asyncbackup.tools import Journey, Tools
from asyncbackup.units import format_bytes

_CERTAINLY_SMALLER = 2  # no dump is expected to shrink below this part of the last one
_LEAST_FREE = 1 << 20  # bytes; below it not even folders and manifests fit


def check(journey: Journey, tools: Tools, found: inventory.Inventory) -> None:
    """Warn when it may not fit, and fail at once when it certainly cannot."""
    free = volume.free_space(tools.root)
    entries = found.of({tools.cores[journey.spec]})
    last = max(entries, key=lambda entry: entry.stamp).bytes if entries else 0
    known = [f"the last backup took {format_bytes(last)}"] if last else []
    known += [f"the database has {format_bytes(journey.size)}"] if journey.size else []
    said = "; ".join([f"{format_bytes(free)} are free in {tools.root}", ", ".join(known)]).rstrip("; ")
    hint = "free some space, or lower the number of backups to keep"
    # A database may have lost most of its rows since, but no dump is larger than the database was then.
    least = min(last // _CERTAINLY_SMALLER, journey.size or last)
    if free < max(least, _LEAST_FREE):
        raise SpaceError(f"{journey.spec}: {said}", hint=hint)
    if free < max(last, journey.size):
        journey.warnings.append(f"only {said}")
        tools.events.warning(
            "space.low",
            message=f"{journey.spec}: only {said}",
            hint=hint,
            free=free,
            last=last,
            size=journey.size,
        )
