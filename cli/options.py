"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", envvar="WEFT_DATA", help="The folder in which the system lives."),
]
Gateway = Annotated[
    str | None,
    typer.Option(metavar="URL", envvar="WEFT_GATEWAY", help="The gateway's address; else DIR/run.json has it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print what the gateway answered, as JSON, instead of a table.")]
Service = Annotated[str, typer.Option(metavar="SERVICE", help="Only this service: payment.")]
Why = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is written down, for `weft audit`.")]
Key = Annotated[
    str,
    typer.Option(
        "--idempotency-key",
        metavar="KEY",
        show_default="a new one",
        help="The key of an earlier try whose outcome is not known: it is done once, and answered the same.",
    ),
]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking for it.")
]
Address = Annotated[
    str,
    typer.Option(
        metavar="LINE,…,COUNTRY", help="Lines and a two-letter country, as in '1 Sample Street, 10115 Berlin, DE'."
    ),
]
