"""Writes docs/configuration.md: every setting of every program, from the classes that read them.

`make docs` runs it. A setting's meaning is the description of its field, so there is one place to change.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, NamedTuple

import services
from gateway.settings import GatewaySettings
from services.settings import Settings as AllSettings
from weft import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic_settings import BaseSettings

_INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from the settings' classes: change those, not this. -->

Every program reads its settings once, at its start, from environment variables. What is wrong, or missing, is named in
one line on standard error, and the program ends with 2. `weft up` sets them all; this is for whoever runs programs
in other ways, as `docker-compose.yml` does.

**From files.** What the environment does not say to a service may be in a file of the variable's name, as in
`/run/secrets/WEFT_DATABASE_URL`: that is how Docker and Kubernetes hand secrets over. `WEFT_SECRETS_DIR` names
another folder than `/run/secrets`. The environment goes before the files. Settings marked **secret** may hold a
password: they belong in files.
"""

_OF_EVERY_SERVICE = "Every service reads these, whatever its context."
_IN_ONE_PROCESS = """\
`python -m services` hosts all services in one process. It reads these, from the environment alone, and for each service
what is above, but for `WEFT_DATABASE_URL`, `WEFT_INSTANCE`, `WEFT_GRPC_PORT` and `WEFT_OPS_PORT`: it makes those of
these."""
_OF_THE_GATEWAY = "`python -m gateway` reads these; what its command line says goes before."
_OF_THE_SANDBOX = (
    "`python -m sandbox`, the payment provider's stand-in, reads these; its command line goes before them."
)
_OF_TRACES = """\
Spans are exported where one of the first three is set; otherwise contexts are passed on and nothing is recorded. These
are OpenTelemetry's own variables; its SDK reads more of them."""


class Row(NamedTuple):
    """One setting: the variable, what it may be, what it is if nobody says, what it means."""

    variable: str
    kind: str
    default: str
    meaning: str


SANDBOX = [
    Row("SANDBOX_HOST", "text", "`127.0.0.1`", "Address on which it listens."),
    Row("SANDBOX_PORT", "integer", "`8090`", "Port on which it listens; 0 takes any free one."),
    Row("SANDBOX_LEDGER", "path", "`sandbox.db`", "Its ledger, an SQLite file, which is made if it is not there."),
    Row("SANDBOX_DIE_WITH_PARENT", "`1`", "none", "End when the process that started it ends (Linux)."),
]
TRACES = [
    Row("OTEL_EXPORTER_OTLP_ENDPOINT", "URL", "none", "A collector that takes OTLP over HTTP, as Jaeger does on 4318."),
    Row("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "URL", "none", "The same for traces alone, with its whole path."),
    Row("OTEL_TRACES_EXPORTER", "`otlp`, `console` or `none`", "none", "Which exporter; `console` writes to stdout."),
    Row("OTEL_SDK_DISABLED", "`true`", "none", "Record nothing, whatever else is set."),
    Row("OTEL_TRACES_SAMPLER", "text", "`parentbased_always_on`", "Which traces are recorded."),
    Row("OTEL_TRACES_SAMPLER_ARG", "number", "none", "The ratio, for the samplers that take one."),
]


def describe() -> str:
    """Return docs/configuration.md."""
    common = set(ServiceSettings.model_fields)
    parts = [_INTRODUCTION, _section("Every service", _OF_EVERY_SERVICE, rows_of(ServiceSettings))]
    for name, settings in _services():
        own = rows_of(settings, without=common)
        parts.append(_section(f"{name}", "" if own else f"{name} has no settings of its own.", own))
    parts.append(_section("All services in one process", _IN_ONE_PROCESS, rows_of(AllSettings)))
    parts.append(_section("gateway", _OF_THE_GATEWAY, rows_of(GatewaySettings)))
    parts += [_section("sandbox", _OF_THE_SANDBOX, SANDBOX), _section("Traces", _OF_TRACES, TRACES)]
    return "\n".join(parts)


def rows_of(settings: type[BaseSettings], without: Iterable[str] = ()) -> list[Row]:
    """Return the settings that a class reads, but for the fields named `without`."""
    prefix = settings.model_config.get("env_prefix", "")
    schema = settings.model_json_schema()
    needed = schema.get("required", ())
    fields: Mapping[str, Any] = schema["properties"]
    return [
        Row(
            f"{prefix}{name}".upper(),
            _kind(field),
            "**required**" if name in needed else _default(field.get("default")),
            ("**secret** " if field.get("secret") else "") + field.get("description", ""),
        )
        for name, field in fields.items()
        if name not in without
    ]


def _services() -> list[tuple[str, type[BaseSettings]]]:
    names = sorted(one.name for one in iter_modules(services.__path__) if one.ispkg)
    return [(name, import_module(f"services.{name}.settings").Settings) for name in names]


def _section(title: str, text: str, rows: Sequence[Row]) -> str:
    lines = [f"## {title}", ""]
    if text:
        lines += [text, ""]
    if rows:
        lines += ["| variable | value | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{row.variable}` | {row.kind} | {row.default} | {_cell(row.meaning)} |" for row in rows] + [""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _default(value: Any) -> str:
    if value in ("", None, [], {}):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return _kind(next(one for one in field["anyOf"] if one.get("type") != "null"))
    if "enum" in field:
        return " or ".join(f"`{one}`" for one in field["enum"])
    if field.get("type") == "boolean":
        return "`true` or `false`"
    if str(field.get("format", "")).endswith("path"):
        return "path"
    if field.get("type") in ("integer", "number"):
        return f"{field['type']}{_range(field)}"
    return "text"


def _range(field: Mapping[str, Any]) -> str:
    least, above, most = (field.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if least is not None:
        return f", {least} or more" if most is None else f", {least} to {most}"
    limits = [*([f"above {above}"] if above is not None else ()), *([f"at most {most}"] if most is not None else ())]
    return "".join(f", {limit}" for limit in limits)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(describe())
