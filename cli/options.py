"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", envvar="WEFT_DATA", help="The folder in which the system lives."),
]
OrderAddress = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The order service's gRPC address; else DIR/run.json has it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON (protobuf's mapping) instead of a table.")]
