"""A PostgreSQL server for the tests that need one, and people of other names."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

START_SECONDS = 30.0


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server of this run, on loopback, with a password; skips where there are no binaries."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'fusecade[team]'")
    pytest.importorskip("sqlalchemy")
    folders = [
        *os.environ.get("PATH", "").split(os.pathsep),
        *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True),
    ]
    initdb = next((found for folder in folders if (found := shutil.which("initdb", path=folder))), None)
    if initdb is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="fusecade-postgres-"))
    password = secrets.token_hex(8)
    (folder / "password").write_text(password)
    as_user = _as_somebody(folder)
    initdb = str(Path(initdb).resolve())
    made = subprocess.run(
        [*as_user, initdb, "-D", folder / "data", "-U", "tuner", "--pwfile", folder / "password", "-A", "scram-sha-256",
         "-E", "UTF8", "--no-locale", "--no-sync"],
        capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [*as_user, str(Path(initdb).with_name("postgres")), "-D", folder / "data", "-p", str(port),
             "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off",
             "-c", "max_connections=60"],
            stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    try:
        _wait_for(server, port, folder / "log")
        yield f"postgresql://tuner:{password}@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(2)  # fast shutdown
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _as_somebody(folder: Path) -> list[str]:
    """PostgreSQL does not run as root: the command that runs it as somebody else, who gets the folder."""
    if os.getuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no setpriv to run it as somebody else")
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    who = names.get("postgres") or names["nobody"]
    for path in (folder, *folder.iterdir()):
        os.chown(path, who.pw_uid, who.pw_gid)
    return ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups", "--pdeathsig", "INT", "--"]


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and server.poll() is None:
        if "ready to accept connections" in log.read_text(errors="replace"):
            return
        time.sleep(0.05)
    pytest.fail(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}", pytrace=False)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A database of its own."""
    import psycopg

    name = f"tuning_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgres_server.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
