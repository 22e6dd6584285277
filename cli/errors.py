"""What a command tells its user when it cannot do what it was asked."""

from __future__ import annotations

REFUSED = 1
"""Exit code: the system was asked, and said no."""
OPERATOR = 2
"""Exit code: something around the system must be mended first."""


class Problem(Exception):
    """Ends the command: `str(problem)` is printed as it is, and `exit_code` is the command's."""

    def __init__(self, message: str, exit_code: int = OPERATOR) -> None:
        self.exit_code = exit_code
        super().__init__(message)
