r"""Whether a dump is whole, by its frame: the lines that pg_dump puts around everything.

A whole dump ends with the comment `-- PostgreSQL database dump complete`; and if it began with
`\restrict <key>` (since 15.14, 16.10, 17.6 and 18), with `\unrestrict <key>` of the same key after it.
pg_dumpall has the two the other way round. Nothing at all follows but the line ends of their own.
"""

import re

_KEY = re.compile(rb"\\(un)?restrict ([A-Za-z0-9]+)\n")
_COMPLETE = {
    b"-- PostgreSQL database dump complete": True,
    b"-- PostgreSQL database cluster dump complete": False,
}
"""The trailer's comment, and whether \\unrestrict comes after it."""


class Frame:
    """Takes the lines that stand outside of statements, in order, and gives the verdict at the end."""

    def __init__(self) -> None:
        self.key: bytes | None = None
        """The key of the \\restrict line; None for older clients."""
        self._unrestricted = False
        self._complete_at = -1
        self._key_follows = False

    def command(self, line: bytes, *, first: bool) -> str:
        """Take a psql command and return what is wrong with it; `first` is before any setting."""
        match = _KEY.fullmatch(line)
        if match is None:
            return "the dump has a psql command other than \\restrict"
        if match[1] is None:
            if self.key is not None or not first:
                return "the dump has a \\restrict line where none may be"
            self.key = match[2]
            return ""
        if match[2] != self.key or self._unrestricted:
            return "the dump has an \\unrestrict line that does not match"
        self._unrestricted = True
        return ""

    def comment(self, line: bytes, end: int) -> None:
        """Take a comment without its line end, which is at offset `end` of the dump."""
        if line in _COMPLETE:
            self._complete_at = end
            self._key_follows = _COMPLETE[line]

    def statement(self) -> None:
        """Take note that a statement has ended: a trailer before it was none."""
        self._complete_at = -1

    def verdict(self, size: int, tail: bytes) -> str:
        """Return why a dump of `size` bytes that ends with `tail` is not whole; nothing if it is."""
        if self._complete_at < 0:
            return "the dump lacks its trailer (database dump complete)"
        expected = b"\n--\n\n"
        if self.key is not None and self._key_follows:
            expected += b"\\unrestrict " + self.key + b"\n\n"
        after = size - self._complete_at
        if after != len(expected) or tail[-after:] != expected:
            return "the dump does not end with its trailer"
        if self.key is not None and not self._unrestricted:
            return "the dump lacks its \\unrestrict line"
        return ""
