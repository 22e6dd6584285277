"""Asks the program that runs in this container whether it is ready; exit code 0 if it is.

Which program that is, its port tells: the variable that says where it listens.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

PAGES = {
    "WEFT_OPS_PORT": "/readyz",
    "WEFT_GATEWAY_OPS_PORT": "/readyz",
    "SANDBOX_PORT": "/healthz",
}


def check() -> str:
    """Return what is wrong; nothing if all is well."""
    asked = [(os.environ[variable], page) for variable, page in PAGES.items() if os.environ.get(variable)]
    if not asked:
        return f"nothing to ask: none of {', '.join(PAGES)} is set"
    for port, page in asked:
        connection = HTTPConnection("127.0.0.1", int(port), timeout=2)
        try:
            connection.request("GET", page)
            answer = connection.getresponse()
            if answer.status != 200:
                return f"{page} answers {answer.status}: {answer.read(2000).decode(errors='replace')}"
        except (OSError, HTTPException) as error:
            return f"{page} does not answer: {error}"
        finally:
            connection.close()
    return ""


if __name__ == "__main__":
    sys.exit(check() or None)
