"""Runs a program that ends with its parent: `leash.py PROGRAM ARGUMENT...`.

On Linux the kernel sends SIGTERM when the parent is gone, be it by kill -9. Elsewhere the
program is run as it is, and the next start finds what is left.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the leash was on
            sys.exit(1)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - that is what a leash is for


if __name__ == "__main__":
    main()
