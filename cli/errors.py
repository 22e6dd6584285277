"""What a command tells its user when it cannot do what it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

REFUSED = 1
"""Exit code: the system was asked, and said no."""
OPERATOR = 2
"""Exit code: something around the system must be mended first."""


class Problem(Exception):
    """Ends the command: `str(problem)` is printed as it is, and `exit_code` is the command's."""

    def __init__(self, message: str, exit_code: int = OPERATOR) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class CallFailed(Problem):
    """A request that the gateway refused, or that it never answered: then `code` is `UNAVAILABLE`.

    `code` is a name of `google.rpc.Code`, and `fields` are the wrong fields by their JSON names.
    """

    def __init__(self, code: str, message: str, *, fields: Sequence[str] = (), exit_code: int = REFUSED) -> None:
        self.code = code
        self.fields = tuple(fields)
        super().__init__(message, exit_code)

    def with_advice(self, advice: str) -> CallFailed:
        """Return the same with a line more, which says what to do."""
        return CallFailed(self.code, f"{self}\n  {advice}", fields=self.fields, exit_code=self.exit_code)
