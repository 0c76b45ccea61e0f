"""Runs a program that ends with its parent: `leash.py PROGRAM ARGUMENT...`.

Elsewhere than on Linux the program is run as it is, and the next start finds what is left.
"""

import os
import sys

from rollouts.orphans import end_with_parent


def main() -> None:
    end_with_parent(os.getppid())
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - that is what a leash is for


if __name__ == "__main__":
    main()
