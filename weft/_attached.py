"""`python _attached.py PARENT SIGNAL PROGRAM ARGUMENT...` becomes a program that ends when PARENT ends.

A program of its own, because code between fork and exec may deadlock in a process with threads. On Linux the
program gets SIGNAL when the thread that started it ends; elsewhere it is run as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: str, death_signal: str, *command: str) -> None:
    """Become `command`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the process that wanted this program has ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
