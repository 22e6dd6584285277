"""Copies Google's common protos, and their stubs, from the installed package to the folder given.

buf finds the `.proto` files there (buf.yaml), and mypy the `.pyi` files (pyproject.toml): the package has both,
but buf reads no site-packages, and mypy trusts no package without `py.typed`.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import files
from pathlib import Path

_FOLDERS = {("google", "api"), ("google", "rpc"), ("google", "type")}


def copy_googleapis(target: Path) -> None:
    """Replace the folder `target` by the `.proto` and `.pyi` files of google/api, google/rpc and google/type."""
    shutil.rmtree(target, ignore_errors=True)
    for file in files("googleapis-common-protos") or ():
        if file.parts[:-1] in _FOLDERS and file.suffix in {".proto", ".pyi"}:
            copy = target / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), copy)


if __name__ == "__main__":
    copy_googleapis(Path(sys.argv[1]))
