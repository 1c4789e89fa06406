"""What failed tries tell the next one, and whether there is to be one."""

from dataclasses import dataclass

from asyncbackup.errors import AsyncbackupError, BusyError, ConnectError, KilledDumpError, SnapshotLostError
from asyncbackup.tools import Journey, Tools


@dataclass(slots=True)
class Tries:
    """The tries of one journey."""

    journey: Journey
    tools: Tools
    failed: int = 0
    killed: int = 0
    export: bool = True
    """Whether the next try shares a snapshot between two connections."""
    last: Exception | None = None

    def again(self, error: Exception) -> bool:
        """Whether to try anew what may pass by itself, and begin the pause; a killed dump only once more."""
        self.failed += 1
        self.last = error
        if not isinstance(error, AsyncbackupError) or not error.retryable:
            return False
        if isinstance(error, ConnectError) and self.journey.spec.server in self.tools.unreachable:
            return False
        if isinstance(error, SnapshotLostError | BusyError):
            self.export = False
        self.killed += isinstance(error, KilledDumpError)
        if self.killed > 1 or self.failed > self.tools.retries:
            return False
        self.journey.stage = "pausing"
        # A server that takes nobody in is not asked by its other databases meanwhile.
        self.journey.place.pause(on_server=not isinstance(error, ConnectError | BusyError))
        return True
