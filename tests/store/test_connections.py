"""Credentials from connections of Airflow: each kind as its provider fills it in, and one that opens an S3 server."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from medpipe import connections, storage
from medpipe.errors import MedpipeError
from medpipe.storage import as_location
from tests.store.conftest import forget_clients


def connection(conn_type: str, extra: dict[str, Any], **fields: Any) -> Any:
    empty = dict.fromkeys(("login", "password", "host"))
    return SimpleNamespace(**empty | fields, conn_type=conn_type, extra_dejson=extra)


@pytest.mark.parametrize(
    "given, protocol, options",
    [
        pytest.param(
            connection("aws", {"region_name": "eu-central-1", "aws_session_token": "t"}, login="k", password="s"), "s3",
            {"key": "k", "secret": "s", "token": "t", "client_kwargs": {"region_name": "eu-central-1"}}, id="aws-key",
        ),
        pytest.param(
            connection("aws", {"service_config": {"s3": {"endpoint_url": "http://s3"}}, "profile_name": "p"}), "s3",
            {"profile": "p", "endpoint_url": "http://s3"}, id="aws-profile",
        ),
        pytest.param(connection("aws", {}), "s3", {}, id="aws-role-of-the-machine"),
        pytest.param(
            connection("google_cloud_platform", {"keyfile_dict": '{"type": "service_account"}', "project": "p"}), "gs",
            {"token": {"type": "service_account"}, "project": "p"}, id="google-dict",
        ),
        pytest.param(
            connection("google_cloud_platform", {"extra__google_cloud_platform__key_path": "/key.json"}), "gs",
            {"token": "/key.json"}, id="google-path",
        ),
        pytest.param(
            connection("wasb", {}, login="account", password="k"), "abfs",
            {"account_name": "account", "account_key": "k"}, id="azure-key",
        ),
        pytest.param(
            connection("wasb", {"sas_token": "sv"}, host="https://account.blob.core.windows.net"), "abfs",
            {"account_name": "account", "sas_token": "sv"}, id="azure-sas",
        ),
        pytest.param(
            connection("adls", {"tenant_id": "t"}, host="account", login="c", password="s"), "abfs",
            {"account_name": "account", "tenant_id": "t", "client_id": "c", "client_secret": "s"}, id="azure-application",
        ),
        pytest.param(
            connection("wasb", {"connection_string": "cs"}), "abfs", {"connection_string": "cs"}, id="azure-string"
        ),
    ],
)  # fmt: skip
def test_options_of_connections(given: Any, protocol: str, options: dict[str, Any]) -> None:
    assert connections.options_of(given) == (protocol, options)


@pytest.mark.parametrize("given", [connection("http", {}), connection("aws", {"role_arn": "arn"})], ids=["http", "role"])
def test_what_cannot_be_used_is_said(given: Any) -> None:
    with pytest.raises(MedpipeError, match=r"SETTING_INVALID.*storage_connection"):
        connections.options_of(given)


def test_a_connection_opens_a_store_that_the_environment_does_not(
    bucket: str, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("airflow", reason="Airflow is not installed")
    fsspec_conf = pytest.importorskip("fsspec.config").conf
    monkeypatch.setitem(fsspec_conf, "s3", {})
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_clients()
    told = {
        "conn_type": "aws", "login": "invented", "password": "canary-secret",
        "extra": {"endpoint_url": s3_environment["AWS_ENDPOINT_URL"]},
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_MEDPIPE_STORE", json.dumps(told))
    connections.connect(None)
    with pytest.raises(MedpipeError, match=r"SETTING_INVALID.*there is no connection elsewhere"):
        connections.connect("elsewhere")
    connections.connect("medpipe_store")
    place = storage.on_store(as_location(f"{bucket}/a"))
    place.write_bytes(b"there")
    assert place.read_bytes() == b"there"
    assert "canary" not in f"{place} {place!r}"
    forget_clients()
