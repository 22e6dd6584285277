"""`python _postgres_server.py PROGRAMS DATA ACCOUNTS OPTION...` becomes a PostgreSQL server that ends with its parent.

The first start makes the data folder `DATA`. `ACCOUNTS` is a JSON file, `{"order": "password"}`: each name gets a role
with this password and a database of the same name, which no other of these roles can enter; the server then wants a
password of everybody on TCP, and nobody can enter as its superuser. Without it (empty), whoever reaches the server's
socket is trusted. `OPTION`s are the server's own, as in `--port=5432`.

PostgreSQL refuses to run as root: then it runs as `nobody`, who on Linux need not be able to reach the folder. It uses
the standard library alone, so that it starts quickly and becomes the server without a trace. Exit code 2, with a line
on standard error, says that somebody has to mend something.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_HERE = "/proc/self/cwd"  # reached without a right to enter the folders above it
_PATIENCE = 3.0
_CANNOT_START = 2
_TRUST = "local all all trust\n"
_PASSWORDS = "host all all 127.0.0.1/32 scram-sha-256\n"
_CLOSE_TO_ALL = "REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;"
# One line each: that is what ends a statement here.
_ACCOUNT = """\
DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN CREATE ROLE "{name}"; END IF; END$$;
ALTER ROLE "{name}" LOGIN PASSWORD '{password}';
CREATE DATABASE "{name}" OWNER "{name}";
REVOKE ALL ON DATABASE "{name}" FROM PUBLIC;
"""


def main(programs: str, data: str, accounts: str, *options: str) -> None:
    """Become the server."""
    folder = Path(data)
    secrets = json.loads(Path(accounts).read_text()) if accounts else {}
    _hold(folder.with_name(f"{folder.name}.lock"))
    user = _nobody() if os.geteuid() == 0 else None
    if not folder.exists():
        _initialise(Path(programs), folder, user)
    os.chdir(folder)
    _become(user)
    # The lock says that no process of an earlier server is left, and its number may be another program's now.
    Path("postmaster.pid").unlink(missing_ok=True)
    server = [str(Path(programs, "postgres")), "-D", _place(folder, user)]
    Path("pg_hba.conf").write_text(_PASSWORDS if secrets else _TRUST)
    _make_accounts(server, secrets)
    os.execv(server[0], [*server, *options])


def _hold(path: Path) -> None:
    """Take the lock that the server and all of its processes inherit, and so keep until the last of them has ended."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                _give_up(f"{path.parent} is in use by another PostgreSQL: stop that first")
            time.sleep(0.02)
    os.set_inheritable(lock, True)


def _initialise(programs: Path, folder: Path, user: pwd.struct_passwd | None) -> None:
    half_made = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(half_made, ignore_errors=True)
    half_made.mkdir(mode=0o700)
    if user is not None:
        os.chown(half_made, user.pw_uid, user.pw_gid)
    command = [str(programs / "initdb"), "-D", _place(half_made, user), "--username=postgres", "--auth=trust"]
    command += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
    # Whatever this process inherited says that the folder is in use, so the child inherits it too.
    done = subprocess.run(
        command,
        cwd=half_made,
        stdin=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=lambda: _become(user),
        check=False,
    )
    if done.returncode:
        _give_up(f"PostgreSQL could not make its data folder {folder}: see above")
    half_made.rename(folder)


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        _give_up("PostgreSQL cannot run as root, and there is no user nobody to run it: start it as another user")


def _become(user: pwd.struct_passwd | None) -> None:
    """Change the user, if to another one, and be sent SIGINT, a quick and clean end, when the parent ends (Linux)."""
    parent = os.getppid()
    if user is not None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    # Last, because Linux forgets it when the user changes.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
        if os.getppid() != parent:
            _give_up("the process that wanted this server has ended")


def _place(folder: Path, user: pwd.struct_passwd | None) -> str:
    return _HERE if user is not None and os.path.isdir(_HERE) else str(folder)


def _make_accounts(server: list[str], secrets: dict[str, str]) -> None:
    """Make the roles and databases, or set other passwords, unless that is done: a server on its own does it."""
    done, wanted = Path("weft-accounts"), hashlib.sha256(json.dumps(secrets, sort_keys=True).encode()).hexdigest()
    if not secrets or (done.exists() and done.read_text() == wanted):
        return
    script = "\n".join([_CLOSE_TO_ALL, *(_ACCOUNT.format(name=n, password=p) for n, p in secrets.items())])
    # No statement goes to the log: passwords are in them.
    command = [server[0], "--single", *server[1:], "-c", "log_min_error_statement=panic", "postgres"]
    ran = subprocess.run(
        command, input=script, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    said = [line for line in ran.stderr.splitlines() if not line.endswith("already exists")]
    print(*said, sep="\n", file=sys.stderr)
    wrong = [line for line in said if "ERROR:" in line]
    if ran.returncode or wrong:
        _give_up(f"PostgreSQL could not make the services' databases: {wrong[0] if wrong else 'see above'}")
    done.write_text(wanted)


def _give_up(why: str) -> NoReturn:
    print(why, file=sys.stderr, flush=True)
    os._exit(_CANNOT_START)


if __name__ == "__main__":
    main(*sys.argv[1:])
