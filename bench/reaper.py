"""Run a command, and stay until all that it left behind has ended, too.

A server that a shell script starts is a daemon: its parent ends at once, and the kernel would charge its
CPU time to process 1. Here it is handed to this process, which waits for it: then the account of this
process's children, which is what measure.py reads, has it all.
"""

import ctypes
import os
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    for number in (signal.SIGINT, signal.SIGTERM):
        # The command, in the same process group, gets it as well: it cleans up, and we wait.
        signal.signal(number, lambda *_: None)
    command = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    result = 1
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            break
        if pid == command:
            result = os.waitstatus_to_exitcode(status)
    sys.exit(result if result >= 0 else 128 - result)


if __name__ == "__main__":
    main()
