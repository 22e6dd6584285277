"""A gateway that asks a server what it has to serve, and one in front of a service of one's own, as the page says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from gateway.contract.reflection import reflect
from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from tests.component.edge import CATALOGUE, Catalogue, serving
from tests.gateway_probe import SERVICE, ProbeServer, probe_files
from weft import CannotStart
from weft.testing import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    Change = Callable[[FileDescriptorProto], None]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gateway.md"


class Described(ProbeServer):
    """A probe that describes itself: which versions it knows, what it lists, and which files it gives out."""

    def __init__(
        self, *, version: str = "v1", lists: Sequence[str] = (SERVICE,), only: str = "", change: Change | None = None
    ) -> None:
        """`only` is how the names of the files begin that it gives out; `change` changes that of the probe."""
        super().__init__()
        self._path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        self._lists = lists
        files = FileDescriptorSet.FromString(probe_files().SerializeToString()).file
        self._files = {file.name: file for file in files if file.name.startswith(only)}
        if change is not None:
            change(self._files["probe.proto"])

    def service(self, details: Any) -> Any:
        """Find the method of a call."""
        if details.method != self._path:
            return super().service(details)
        return grpc.stream_stream_rpc_method_handler(
            self._describe, ServerReflectionRequest.FromString, ServerReflectionResponse.SerializeToString
        )

    async def _describe(self, questions: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        async for question in questions:
            answer = ServerReflectionResponse()
            name = question.file_by_filename or "probe.proto"
            if question.HasField("list_services"):
                for service in (*self._lists, "grpc.reflection.v1.ServerReflection"):
                    answer.list_services_response.service.add(name=service)
            elif name in self._files and question.file_containing_symbol in ("", *self._lists):
                answer.file_descriptor_response.file_descriptor_proto.append(self._files[name].SerializeToString())
            else:
                answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            yield answer


async def made(target: str, **changed: Any) -> Gateway:
    """Make a gateway that asks the server at `target`; not started."""
    settings = GatewaySettings(gateway_reflect=target, gateway_reflect_seconds=0.2, gateway_auth=False, **changed)
    return await asyncio.to_thread(Gateway, settings)


async def why_not(target: str, **changed: Any) -> str:
    """Return why such a gateway cannot start."""
    with pytest.raises(CannotStart) as caught:
        await made(target, **changed)
    return str(caught.value)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_what_a_server_describes_is_served_from_there(version: str) -> None:
    async with Described(version=version).serving() as server:
        gateway = await made(server.address)
        assert {route.rpc.partition("/")[0] for route in gateway.routes} == {SERVICE}
        assert len(gateway.routes) == 14


async def test_files_that_a_server_leaves_out_are_known_here() -> None:
    async with Described(only="probe").serving() as server:
        assert len((await made(server.address)).routes) == 14


async def test_a_file_that_nobody_knows_is_named() -> None:
    async with Described(change=lambda file: file.dependency.append("own/types.proto")).serving() as server:
        assert "cannot describe own/types.proto, which its services import" in await why_not(server.address)


async def test_backends_that_are_named_are_the_only_ones() -> None:
    async with Described(lists=(SERVICE, "probe.v1.Elsewhere")).serving() as server:
        both = await made(server.address)
        one = await made(server.address, gateway_backends={"probe.v1.Elsewhere": "127.0.0.1:1"})
        assert (len(both.routes), [route.path for route in one.routes]) == (15, ["/v1/elsewhere/{id}"])
        missing = await why_not(server.address, gateway_backends={"no.Such": "127.0.0.1:1"})
        assert f"no.Such is not in the server at {server.address}, which has probe.v1.Elsewhere" in missing


async def test_a_service_of_wefts_own_describes_itself() -> None:
    async with serving(Catalogue()) as server:
        reflected = await asyncio.to_thread(reflect, f"127.0.0.1:{server.port}", 5)
        assert reflected.services == (CATALOGUE.full_name,)
        names = {file.name for file in reflected.files.file}
        assert {"commerce/product/v1/product_service.proto", "google/api/annotations.proto"} <= names


async def test_a_server_without_annotations_is_told_what_to_add() -> None:
    def add_bare(file: FileDescriptorProto) -> None:
        method = {"name": "Do", "input_type": ".probe.v1.Thing", "output_type": ".probe.v1.Thing"}
        file.service.add(name="Bare").method.add(**method)

    async with Described(lists=["probe.v1.Bare"], change=add_bare).serving() as server:
        told = await why_not(server.address)
    assert f"nothing to serve: in the server at {server.address} no method of probe.v1.Bare is annotated" in told
    assert 'import "google/api/annotations.proto"' in told


async def test_a_server_without_reflection_is_told_what_to_do() -> None:
    async with ProbeServer().serving() as server:
        assert "has no gRPC reflection: turn it on there, or give the gateway" in await why_not(server.address)


async def test_a_server_that_lists_nothing_is_told() -> None:
    async with Described(lists=()).serving() as server:
        assert "has no service that it could describe" in await why_not(server.address)


async def test_nobody_there_is_told_once_the_time_is_up() -> None:
    target = f"127.0.0.1:{free_port()}"
    assert f"no gRPC server answers at {target} (" in await why_not(target)


async def test_a_server_that_comes_late_is_waited_for() -> None:
    server = Described()
    port = free_port()
    waiting = asyncio.create_task(asyncio.to_thread(reflect, f"127.0.0.1:{port}", 20))
    await asyncio.sleep(0)
    late = grpc.aio.server(handlers=(server,))  # type: ignore[arg-type]
    late.add_insecure_port(f"127.0.0.1:{port}")
    await late.start()
    try:
        assert (await waiting).services == (SERVICE,)
    finally:
        await late.stop(0)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page asks with curl")
async def test_a_newcomer_gets_what_the_page_says(tmp_path: Path) -> None:
    """Write the page's files and run its commands, word for word but for the ports and where python is."""
    ports = {"50051": str(free_port()), "8080": str(free_port())}
    text = re.sub("|".join(ports), lambda match: ports[match[0]], PAGE.read_text())
    for name, content in re.findall(r"^`(hello/[\w.]+)`\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    [(commands, answer)] = re.findall(r"^```sh\n(.*?)^```\n\n```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    *starts, ask = commands.replace(".venv/bin/python", sys.executable).splitlines()
    path = os.pathsep.join(map(str, (ROOT, ROOT / "gen")))
    environment = {**os.environ, "PYTHONPATH": path, "WEFT_DRAIN_SECONDS": "0"}

    async def begin(command: str, **more: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_shell(f"exec {command}", cwd=tmp_path, env=environment, **more)

    async with AsyncExitStack() as stack:
        for command in starts:
            process = await begin(command.removesuffix("&"))
            stack.push_async_callback(process.wait)
            stack.callback(process.terminate)
        await until_served(int(ports["8080"]))
        asking = await begin(ask, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
        told, _ = await asking.communicate()
    assert json.loads(told) == json.loads(answer)


async def until_served(port: int) -> None:
    """Wait until somebody listens on a port."""
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
