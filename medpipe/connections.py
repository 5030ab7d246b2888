"""Credentials of an object store from a connection of Airflow, in the task that needs them.

They go from Airflow's secrets into the process's file systems: into no path, no argument, no log and no XCom. Without a
connection, the environment says what it says anywhere else (README, Storage).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.storage import set_credentials


def connect(connection_id: str | None) -> None:
    """Lets this process reach stores with the credentials of a connection; with none named, of the environment.

    Raises:
        MedpipeError: SETTING_INVALID where there is no such connection, or it says nothing that can be used.
    """
    if not connection_id:
        return
    from airflow.sdk import Connection

    try:
        connection = Connection.get(connection_id)
    except Exception as error:  # Airflow's kinds of it differ from place to place, and may hold more than the name
        reason = f"there is no connection {connection_id} ({type(error).__name__})"
        raise MedpipeError("SETTING_INVALID", name="storage_connection", reason=reason) from None
    set_credentials(*options_of(connection))


def options_of(connection: Any) -> tuple[str, dict[str, Any]]:
    """Returns the protocol of a connection of Airflow, and its credentials as options of fsspec's file system.

    ``aws`` as the Amazon provider fills it in: key and secret, or a profile; in ``extra`` ``aws_session_token``,
    ``region_name``, ``endpoint_url``. ``google_cloud_platform``: ``keyfile_dict`` or ``key_path``, ``project``.
    ``wasb`` and ``adls``: a connection string, or the account with its key, a SAS token, or an application's secret.

    Raises:
        MedpipeError: SETTING_INVALID.
    """
    extra = {name.rsplit("__", 1)[-1]: value for name, value in connection.extra_dejson.items() if value}
    kinds = {"aws": _aws, "google_cloud_platform": _google, "wasb": _azure, "adls": _azure}
    if connection.conn_type not in kinds:
        raise _invalid(f"a connection of the type {connection.conn_type} is of no store; {', '.join(kinds)} are")
    protocol, options = kinds[connection.conn_type](connection, extra)
    return protocol, {name: value for name, value in options.items() if value}


def _aws(connection: Any, extra: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if extra.get("role_arn"):
        raise _invalid("role_arn is not taken from a connection; give the workers the role, or a profile that has it")
    service = extra.get("service_config", {}).get("s3", {})
    options = {
        "key": connection.login or extra.get("aws_access_key_id"),
        "secret": connection.password or extra.get("aws_secret_access_key"),
        "token": extra.get("aws_session_token"),
        "profile": extra.get("profile_name"),
        "endpoint_url": service.get("endpoint_url") or extra.get("endpoint_url") or extra.get("host"),
        "client_kwargs": {name: extra[name] for name in ("region_name", "verify") if name in extra},
    }
    return "s3", options


def _google(_: Any, extra: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    key = extra.get("keyfile_dict")
    return "gs", {"token": json.loads(key) if isinstance(key, str) else key or extra.get("key_path"),
                  "project": extra.get("project")}  # fmt: skip


def _azure(connection: Any, extra: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    host = (connection.host or "").removeprefix("https://").split(".")[0]
    if extra.get("connection_string"):
        return "abfs", {"connection_string": extra["connection_string"]}
    if extra.get("tenant_id"):
        return "abfs", {
            "account_name": host, "tenant_id": extra["tenant_id"],
            "client_id": connection.login, "client_secret": connection.password,
        }  # fmt: skip
    account = connection.login or host
    return "abfs", {"account_name": account, "account_key": connection.password, "sas_token": extra.get("sas_token")}


def _invalid(reason: str) -> MedpipeError:
    return MedpipeError("SETTING_INVALID", name="storage_connection", reason=reason)
