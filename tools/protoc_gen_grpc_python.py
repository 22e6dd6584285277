"""A protoc plugin that generates the gRPC code of Python, its stubs, and what makes the tree a typed package.

grpcio-tools carries the generator inside its own protoc and not as a plugin, which buf needs. This plugin
hands the descriptors that it is given to that protoc, with mypy-protobuf's plugin for the stubs (found on
PATH), and returns what they wrote for the files that define a service. Every folder gets an `__init__.py`,
and every root a `py.typed`.
"""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

if TYPE_CHECKING:
    from collections.abc import Iterable


def generate_grpc(request: CodeGeneratorRequest) -> dict[str, str]:
    """Return the gRPC modules and stubs of the request's files, by path. Raises `RuntimeError` if protoc refuses."""
    wanted = set(request.file_to_generate)
    names = [file.name for file in request.proto_file if file.service and file.name in wanted]
    if not names:
        return {}
    with TemporaryDirectory() as folder:
        descriptors = Path(folder, "descriptors.binpb")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = Path(folder, "out")
        out.mkdir()
        outputs = [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
        code = protoc.main(["protoc", f"--descriptor_set_in={descriptors}", *outputs, *names])
        if code != 0:
            raise RuntimeError(f"protoc exited with code {code}")
        return {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*.py*")}


def package_markers(names: Iterable[str]) -> dict[str, str]:
    """Return the empty files that make the folders of these proto files typed packages, by path."""
    folders = {parent for name in names for parent in PurePosixPath(name).parents if parent.name}
    roots = {PurePosixPath(folder.parts[0]) for folder in folders}
    markers = [folder / "__init__.py" for folder in folders] + [root / "py.typed" for root in roots]
    return {str(marker): "" for marker in sorted(markers)}


def main() -> None:
    """Answer one request of a protobuf compiler: it comes on standard input, the answer goes to standard output."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    try:
        files = generate_grpc(request) | package_markers(request.file_to_generate)
    except RuntimeError as error:
        response.error = str(error)
    else:
        for name, content in files.items():
            response.file.add(name=name, content=content)
    sys.stdout.buffer.write(response.SerializeToString())


if __name__ == "__main__":
    main()
