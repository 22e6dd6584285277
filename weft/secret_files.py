"""Settings that are kept in files, one each, as Docker and Kubernetes hand secrets over.

A file bears the name of the variable that it stands in for, as in `/run/secrets/WEFT_DATABASE_URL`.
"""

from __future__ import annotations

import os
from pathlib import Path

from weft.startup import CannotStart

_USUAL = Path("/run/secrets")
_FOLDER = "WEFT_SECRETS_DIR"


def secrets_folder() -> Path | None:
    """Return the folder of such files: `WEFT_SECRETS_DIR`, or `/run/secrets` if it is there; None for none.

    Raises `CannotStart` if the folder that was named is none, or a file in it cannot be read.
    """
    named = os.environ.get(_FOLDER)
    folder = _USUAL if named is None else Path(named)
    if not folder.is_dir():
        if named is None:
            return None
        raise CannotStart(f"{_FOLDER} is {named!r}, which is no folder: name one, or leave it unset")
    try:
        locked = [one for one in folder.iterdir() if _is_ours(one) and not os.access(one, os.R_OK)]
    except PermissionError:
        if named is None:
            return None
        raise CannotStart(f"the folder {folder} cannot be read: let uid {os.geteuid()} read it") from None
    if locked:
        raise CannotStart(f"{locked[0]} cannot be read: let uid {os.geteuid()} read it, or unmount it")
    return folder


def _is_ours(file: Path) -> bool:
    return file.name.upper().startswith("WEFT_")
