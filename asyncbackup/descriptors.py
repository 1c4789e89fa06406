"""How many dumps the limit on open files allows at once."""

import resource

_EACH = 12  # of a dump: lock, folder, partial file, connection, password, pipes to the program
_BASE = 64  # Python itself, what is being published, and the locks of those that pause


def affordable(dumps: int) -> int:
    """Return how many of so many dumps may run at once; raises the limit as far as that takes and it may."""
    needed = _BASE + _EACH * dumps
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return dumps
    if hard == resource.RLIM_INFINITY or hard > soft:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(dumps, (soft - _BASE) // _EACH))
