"""docker-compose.yml, and the Dockerfile that it builds, read as the tests of both need them."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
SECRETS = "/run/secrets"


@cache
def compose() -> dict[str, Any]:
    """Return docker-compose.yml, its merge keys applied."""
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


def containers() -> dict[str, dict[str, Any]]:
    """Return every service of the compose file, by name."""
    services: dict[str, dict[str, Any]] = compose()["services"]
    return services


def ours() -> dict[str, dict[str, Any]]:
    """Return those that run Weft's own image."""
    return {name: one for name, one in containers().items() if one["image"] == "weft:local"}


def command_of(name: str) -> list[str]:
    """Return the command of a container."""
    return shlex.split(containers()[name]["command"])


def environment_of(name: str) -> dict[str, str]:
    """Return what the compose file puts into a container's environment."""
    return {key: str(value) for key, value in containers()[name].get("environment", {}).items()}


def secrets_of(name: str) -> dict[str, str]:
    """Return which secret is mounted under which file name."""
    mounted = containers()[name].get("secrets", [])
    pairs = [(one, one) if isinstance(one, str) else (one["target"], one["source"]) for one in mounted]
    return dict(pairs)


def settings_of(name: str) -> type[BaseSettings] | None:
    """Return the class that reads the settings of one of our containers; None for the sandbox, which has none."""
    module = command_of(name)[-1]
    if module == "gateway":
        return GatewaySettings
    return import_module(f"{module}.settings").Settings if module.startswith("services.") else None


def variables_of(settings: type[BaseSettings]) -> dict[str, bool]:
    """Return the variables that a class of settings reads, and whether each has to be there."""
    prefix = settings.model_config.get("env_prefix", "")
    return {f"{prefix}{name}".upper(): field.is_required() for name, field in settings.model_fields.items()}


def port_variables(name: str) -> dict[str, str]:
    """Return the variables that say on which ports a container listens, with the ports."""
    return {key: value for key, value in environment_of(name).items() if key.endswith("_PORT")}


def references_in(values: Iterable[str]) -> set[tuple[str, str]]:
    """Return what in these texts names another container and a port of it."""
    names = "|".join(map(re.escape, containers()))
    return {found for text in values for found in re.findall(rf"\b({names}):(\d+)", text)}


class Dockerfile:
    """The instructions of the Dockerfile, a line each."""

    def __init__(self) -> None:
        text = re.sub(r"\\\n\s*(#.*\n\s*)*", " ", (ROOT / "Dockerfile").read_text())
        lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self.instructions = [(word.upper(), rest) for word, rest in lines]

    def all(self, word: str) -> list[str]:
        """Return what is said by every instruction of a kind, of all stages."""
        return [rest for one, rest in self.instructions if one == word]

    @property
    def last_stage(self) -> list[tuple[str, str]]:
        """The instructions of the stage that becomes the image."""
        begin = max(index for index, (word, _) in enumerate(self.instructions) if word == "FROM")
        return self.instructions[begin:]

    def last(self, word: str) -> str:
        """Return what the last instruction of a kind in the last stage says."""
        return [rest for one, rest in self.last_stage if one == word][-1]

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment that the image gives to its programs."""
        pairs = [pair.partition("=") for one, rest in self.last_stage if one == "ENV" for pair in rest.split()]
        return {name: value for name, _, value in pairs}

    @property
    def entrypoint(self) -> list[str]:
        """The program that is given a container's command."""
        words: list[str] = json.loads(self.last("ENTRYPOINT"))
        return words
