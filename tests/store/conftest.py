"""An S3 server on loopback (moto), and how a test gets a bucket of its own there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from uuid import uuid4

import pytest

from medpipe import storage
from medpipe.lake import lease


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of the server, a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.1)
    yield address
    server.kill()
    server.wait()


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment as a person sets it."""
    variables = {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "invented", "AWS_SECRET_ACCESS_KEY": "invented",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    return variables


def forget_clients() -> None:
    """Drops clients that were made with another environment."""
    import s3fs

    storage._filesystems.clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3_environment: dict[str, str]) -> str:
    """The URL of a new bucket."""
    name = f"bucket-{uuid4().hex[:12]}"
    storage.on_store(storage.as_location(f"s3://{name}")).fs.mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of a folder in fsspec's store in memory: the interface, no service."""
    url = f"memory://{uuid4().hex}"
    yield url
    storage.on_store(storage.as_location(url)).remove_tree()


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of a killed process is free after half a second."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
