"""What ``medpipe doctor`` finds: packages, device, models, contracts, warehouse."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from rich.console import Console
from rich.table import Table

import medpipe
from medpipe.device import cpu_count
from medpipe.errors import MedpipeError
from medpipe.lake import contracts, warehouse
from medpipe.settings import Settings
from medpipe.weights import MODELS, WEIGHTS_FILE, find_model, identify

PACKAGES = ("torch", "pytorch-crf", "torch-geometric", "pyarrow", "pandas", "numpy", "safetensors")
OPTIONAL = {
    "apache-airflow": "airflow",
    "rouge-score": "evaluate",
    "simple-icd-10-cm": "codes",
    "duckdb": "dev",
}  # package -> extra


def examine(settings: Settings) -> dict[str, Any]:
    """Returns what is there and ``problems``, a list of sentences; empty if all is well."""
    problems: list[str] = []
    packages = {name: _version(name) for name in PACKAGES}
    problems += [f"{name} is not installed" for name, version in packages.items() if version is None]
    models = {}
    shipped = sorted(path.parent.name for path in MODELS.glob(f"*/{WEIGHTS_FILE}"))
    for name in dict.fromkeys([settings.tagger, settings.relations, settings.summarizer, *shipped]):
        try:
            folder = find_model(name)
            size = (folder / WEIGHTS_FILE).stat().st_size
            models[name] = {"id": str(identify(folder)), "version": identify(folder).version, "bytes": size}
        except MedpipeError as error:
            problems.append(str(error))
    return {
        "medpipe": medpipe.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {cpu_count()} processors",
        "device": _device(settings, problems),
        "packages": packages,
        "optional": {name: _version(name) for name in OPTIONAL},
        "models": models,
        "contracts": {table: contracts.current_version(table) for table in contracts.TABLES},
        "warehouse": _warehouse(settings, problems),
        "problems": problems,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device(settings: Settings, problems: list[str]) -> str | None:
    from medpipe.device import resolve_device

    try:
        device = resolve_device(settings.device)
    except MedpipeError as error:
        problems.append(str(error))
        return None
    if device.type != "cuda":
        return str(device)
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return f"{device}: {torch.cuda.get_device_name(device)}, {free >> 20:,} of {total >> 20:,} MiB free"


def _warehouse(settings: Settings, problems: list[str]) -> dict[str, Any]:
    if not settings.warehouse.is_dir():
        return {"path": str(settings.warehouse), "partitions": 0, "state": "not there yet"}
    findings = warehouse.check(settings.warehouse)
    problems += [str(finding) for finding in findings]
    unfinished = len(list(settings.warehouse.glob("_work/dt=*/*/plan.json")))
    return {
        "path": str(settings.warehouse),
        "partitions": len(warehouse.partitions(settings.warehouse)),
        "unfinished_runs": unfinished,
        "state": "healthy" if not findings else f"{len(findings)} findings",
    }


def print_findings(console: Console, findings: dict[str, Any]) -> None:
    """Prints what was found, problems last."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("medpipe", f"{findings['medpipe']} on Python {findings['python']}, {findings['machine']}")
    table.add_row("device", findings["device"] or "none")
    table.add_row(
        "packages", ", ".join(f"{name} {version or 'MISSING'}" for name, version in findings["packages"].items())
    )
    optional = (
        f"{name} {version or f'not installed (medpipe[{OPTIONAL[name]}])'}"
        for name, version in findings["optional"].items()
    )
    table.add_row("optional", ", ".join(optional).replace("[", r"\["))
    for name, model in findings["models"].items():
        table.add_row("model", f"{name} {model['version']} ({model['id']}, {model['bytes'] / 1e6:.1f} MB)")
    table.add_row("contracts", ", ".join(f"{name} {version}" for name, version in findings["contracts"].items()))
    lake = findings["warehouse"]
    table.add_row("warehouse", f"{lake['path']}: {lake['state']}, {lake['partitions']} partitions")
    if lake.get("unfinished_runs"):
        table.add_row("", f"{lake['unfinished_runs']} unfinished runs: run the same command again to go on")
    console.print(table)
    _print_problems(console, findings)


def print_gpus(console: Console, findings: dict[str, Any]) -> None:
    """Prints what ``gpu.examine_gpus`` found, problems last."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("torch", f"{findings['torch']}, built for CUDA {findings['cuda'] or 'none'}")
    table.add_row("driver", f"CUDA {findings['driver_cuda']}" if findings["driver_cuda"] else "none")
    for gpu in findings["gpus"]:
        table.add_row(gpu["device"], f"{gpu['name']}, compute capability {gpu['compute_capability']}")
        table.add_row("", f"bfloat16 (--profile fast): {'yes' if gpu['bfloat16'] else 'no'}")
        table.add_row("", f"{gpu['free_mb']:,} of {gpu['memory_mb']:,} MiB free")
        budgets = ", ".join(f"{stage} {tokens:,}" for stage, tokens in gpu["token_budget"].items())
        table.add_row("", f"tokens of a batch: {budgets}")
        if "matmul_tflops" in gpu:
            table.add_row(
                "", f"matrix product {gpu['matmul_tflops']} TFLOP/s, LSTM {gpu['lstm_tokens_per_s']:,} tokens/s"
            )
    console.print(table)
    _print_problems(console, findings)


def _print_problems(console: Console, findings: dict[str, Any]) -> None:
    for problem in findings["problems"]:
        console.print(f"problem: {problem}", style="bold red", markup=False)
    if not findings["problems"]:
        console.print("all well", style="bold green")
