"""What keeps a program from starting, told to the operator in one line."""


class CannotStart(Exception):
    """The program cannot start for a reason that its operator can mend; the message says how. Exit code 2."""
