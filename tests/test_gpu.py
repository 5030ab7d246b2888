"""A GPU that is not there: stand-ins for what torch tells of it. What only a real one can show is not shown here."""

# ruff: noqa: F811 (fixtures of test_pipeline)

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from medpipe import cli, gpu, pipeline
from medpipe.device import run_halving
from medpipe.errors import MedpipeError
from medpipe.gpu import Meter, claimed_device, find_token_budget, lock_path
from medpipe.lake import warehouse
from medpipe.pipeline import stages
from medpipe.report.doctor import print_gpus
from medpipe.settings import STAGES
from tests.test_pipeline import DAY, fakes, folder, settings_of  # noqa: F401 (fixtures)

GIB = 1 << 30
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Two GPUs of 16 GiB, of which 10 are free and 1 more is reserved by torch and not used."""
    state: dict[str, Any] = {"free": 10 * GIB, "busy": 75}

    def properties(device: Any) -> SimpleNamespace:
        number = torch.device(device).index if not isinstance(device, int) else device
        return SimpleNamespace(name=f"Invented {number}", uuid=f"GPU-{number}", major=8, minor=6)

    for name, value in {
        "is_available": lambda: True, "device_count": lambda: 2, "get_device_properties": properties,
        "mem_get_info": lambda device: (state["free"], 16 * GIB), "memory_reserved": lambda device: 3 * GIB,
        "memory_allocated": lambda device: 2 * GIB, "max_memory_reserved": lambda device: 400,
        "max_memory_allocated": lambda device: 300, "reset_peak_memory_stats": lambda device: None,
        "utilization": lambda device: state["busy"], "empty_cache": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return state


# --- memory ---------------------------------------------------------------------------------


def test_a_batch_fits_in_the_free_memory(two_gpus: dict[str, Any]) -> None:
    two_gpus["free"] = GIB // 2  # with what torch has reserved and does not use: 1.5 GiB
    assert find_token_budget("tag", CUDA, None) == int(1.5 * GIB * 0.8) // 26_000 == 49557
    assert find_token_budget("summarize", CUDA, None) < find_token_budget("tag", CUDA, None)
    assert find_token_budget("tag", CUDA, 777) == find_token_budget("tag", CPU, 777) == 777
    assert find_token_budget("tag", CPU, None) == 8192
    two_gpus["free"] = -GIB
    assert find_token_budget("relate", CUDA, None) == 1024
    two_gpus["free"] = 80 * GIB
    assert find_token_budget("relate", CUDA, None) == 1 << 18


def test_batches_are_halved_until_they_fit_and_a_single_one_is_given_up() -> None:
    tried: list[list[int]] = []

    def compute(items: Any) -> list[int]:
        tried.append(list(items))
        if sum(items) > 5:
            raise torch.OutOfMemoryError
        return [-item for item in items]

    halved: list[int] = []
    assert run_halving([1, 2, 9, 1, 3], compute, lambda _: 0, halved) == [-1, -2, 0, -1, -3]
    assert tried == [[1, 2, 9, 1, 3], [1, 2], [9, 1, 3], [9], [1, 3]]
    assert halved == [5, 3], "a single item is not halved"


# --- one process a device -------------------------------------------------------------------


def test_each_process_has_a_gpu_of_its_own(two_gpus: dict[str, Any]) -> None:
    with claimed_device("auto", 0) as one, claimed_device("cuda", 0) as other:
        assert (one, other) == ("cuda:0", "cuda:1")
        busy = pytest.raises(MedpipeError, match="DEVICE_BUSY: Other processes of medpipe compute on auto")
        with busy as caught, claimed_device("auto", 0.02):
            raise AssertionError("both are taken")
        assert caught.value.exit_code == 5
        with pytest.raises(MedpipeError, match="DEVICE_BUSY"), claimed_device("cuda:1", 0):
            raise AssertionError("it is taken")
        with claimed_device("cpu", 0) as processor:
            assert processor == "cpu"
    with claimed_device("cuda:1", 0) as again:
        assert again == "cuda:1"


def test_a_killed_process_leaves_its_gpu(two_gpus: dict[str, Any]) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        with claimed_device("cuda:0", 0):
            ready.set()
            time.sleep(60)

    process = context.Process(target=hold)
    process.start()
    assert ready.wait(10)
    with pytest.raises(MedpipeError, match="DEVICE_BUSY"), claimed_device("cuda:0", 0):
        raise AssertionError("it is taken")
    process.kill()
    with claimed_device("cuda:0", 10) as device:  # waits for the system to free the lock
        assert device == "cuda:0"
    process.join()


def test_a_lock_file_of_another_user_can_be_locked(two_gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lock_path(0).write_text("")
    real = os.open

    def refuse(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    with claimed_device("cuda:0", 0) as device:
        assert device == "cuda:0"


def test_without_a_gpu_cuda_is_an_error_and_auto_is_the_cpu() -> None:
    with claimed_device("auto", 0) as device:
        assert device == ("cuda:0" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(MedpipeError, match="DEVICE_UNAVAILABLE"), claimed_device("cuda", 0):
            raise AssertionError("there is none")


# --- what it did ----------------------------------------------------------------------------


def test_the_meter_averages_what_was_sampled(two_gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SAMPLE_SECONDS", 0.005)
    with Meter("cuda:0") as meter:
        two_gpus["busy"] = 50
        deadline = time.monotonic() + 5
        while len(meter.busy) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        found = meter.lap()
        assert found["gpu_busy"] in (0.5, pytest.approx(0.5, abs=0.1)) and found["gpu_fragmentation"] == 0.25
    two_gpus["busy"] = 20
    assert Meter("cuda:0").lap()["gpu_busy"] == 0.2, "shorter than a sample"
    with Meter("cpu") as meter:
        assert meter.lap() == {"gpu_busy": None, "gpu_fragmentation": None}


def test_a_gpu_that_does_not_tell_is_not_asked_again(two_gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: Any) -> int:
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", missing)
    with Meter("cuda:0") as meter:
        assert meter.lap() == {"gpu_busy": None, "gpu_fragmentation": 0.25}
        assert not meter.sampler.is_alive()


def test_the_figures_stand_in_runs_and_can_be_sent_on(
    two_gpus: dict[str, Any], tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    load = stages.load_stage
    monkeypatch.setattr(
        stages, "load_stage", lambda stage, settings: asked.append(settings.device) or load(stage, settings)
    )
    settings = settings_of(tmp_path, chunk_documents=9)
    night = pipeline.plan(settings, DAY, [str(folder)])
    for stage in STAGES:
        pipeline.run_stage(stage, night["work"], 0, settings)
    assert asked == ["cuda:0"] * 3
    figures = pipeline.stage_metrics("tag", night["work"], 0)
    assert (figures["notes"], figures["rejects"], figures["batches_halved"]) == (20, 0, 0)
    assert (figures["gpu_busy"], figures["gpu_fragmentation"]) == (0.75, 0.25)
    assert figures["tokens_per_s"] == pytest.approx(200 / figures["seconds"])
    assert "gpu_busy" not in pipeline.stage_metrics("ingest", night["work"], 0)
    pipeline.publish(night["work"], settings)
    assert pipeline.stage_metrics("tag", night["work"], 0) == {}
    runs = {row["stage"]: row for row in warehouse.read_table(settings.warehouse, "runs", partition=DAY).to_pylist()}
    assert [runs["tag"][name] for name in ("gpu_busy", "gpu_fragmentation", "useful_tokens")] == [0.75, 0.25, None]
    assert runs["tag"]["tokens_per_s"] > 0 and runs["ingest"]["tokens_per_s"] is None
    assert warehouse.check(settings.warehouse) == []


def test_airflow_gets_counters_and_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = pytest.importorskip("airflow.sdk.observability.stats", reason="Airflow is not installed")
    sent: list[tuple[str, str, float]] = []
    monkeypatch.setattr(stats, "incr", lambda name, value: sent.append(("incr", name, value)))
    monkeypatch.setattr(stats, "gauge", lambda name, value: sent.append(("gauge", name, value)))
    from medpipe.orchestrate import emit

    emit("tag", {"notes": 20.0, "tokens_per_s": 12.5})
    assert sent == [("incr", "medpipe.tag.notes", 20), ("gauge", "medpipe.tag.tokens_per_s", 12.5)]


# --- doctor ---------------------------------------------------------------------------------


def test_doctor_tells_what_a_gpu_is(
    two_gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    monkeypatch.setattr(gpu, "time_matmul", lambda device: 12.5)
    monkeypatch.setattr(gpu, "time_lstm", lambda device: 900_000)
    monkeypatch.setattr(gpu, "driver_cuda", lambda: "12.9")
    found = gpu.examine_gpus("auto")
    assert [one["device"] for one in found["gpus"]] == ["cuda:0", "cuda:1"] and found["problems"] == []
    assert [one["device"] for one in gpu.examine_gpus("cuda:1")["gpus"]] == ["cuda:1"]
    first = found["gpus"][0]
    assert (first["compute_capability"], first["bfloat16"], first["free_mb"]) == ("8.6", True, 10240)
    assert first["token_budget"]["tag"] == 1 << 18
    print_gpus(Console(width=120), found)
    assert "matrix product 12.5 TFLOP/s, LSTM 900,000 tokens/s" in capsys.readouterr().out

    def fails(device: Any) -> float:
        raise RuntimeError("CUDA error: no kernel image is available")

    monkeypatch.setattr(gpu, "time_matmul", fails)
    assert gpu.examine_gpus("cuda:0")["problems"] == ["cuda:0 (Invented 0) does not compute: RuntimeError."]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "driver_cuda", lambda: "11.4")
    assert gpu.examine_gpus("auto")["problems"] == [
        "No GPU can be used: the driver knows CUDA 11.4 and torch wants 12.8: update the driver."
    ]


def test_doctor_says_that_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    done = CliRunner().invoke(cli.app, ["doctor", "--gpu", "--json"])
    assert done.exit_code == 5
    assert "is built without CUDA" in json.loads(done.stdout)["problems"][0]


def test_what_doctor_times_runs_on_any_device() -> None:
    assert gpu.time_matmul(CPU, size=64, rounds=1) >= 0
    assert gpu.time_lstm(CPU, rows=2, steps=3, rounds=1) > 0
