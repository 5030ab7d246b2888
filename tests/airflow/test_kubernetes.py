"""The pod of a stage, made with the models of the Kubernetes client and merged by Airflow's own code: no cluster.

``make test-workers``, which installs the Kubernetes provider.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.workers
pytest.importorskip("kubernetes", reason="no Kubernetes provider (pip install '.[airflow,kubernetes]')")
pytest.importorskip("airflow.providers.cncf.kubernetes", reason="no Kubernetes provider")

ROOT = Path(__file__).parent.parent.parent

MERGE = """
import json
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient, models as k8s

template = k8s.V1Pod(
    metadata=k8s.V1ObjectMeta(name="worker"),
    spec=k8s.V1PodSpec(containers=[k8s.V1Container(
        name="base", image="registry.example/medpipe:cuda",
        resources=k8s.V1ResourceRequirements(requests={{"cpu": "2"}}),
        volume_mounts=[k8s.V1VolumeMount(name="data", mount_path="/data")],
    )], volumes=[k8s.V1Volume(name="data")]),
)
from medpipe.orchestrate import place
for stage in ("ingest", "tag", "relate", "summarize"):
    config = place(stage).get("executor_config")
    pod = PodGenerator.reconcile_pods(template, config["pod_override"] if config else None)
    print("POD" + json.dumps(ApiClient().sanitize_for_serialization(pod)))
"""


def test_a_stage_asks_for_one_gpu_and_keeps_what_the_template_says(tmp_path: Path) -> None:
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *(one for one in sys.path if one)]),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__EXECUTOR": "KubernetesExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "MEDPIPE_CPU_STAGES": '["ingest"]',
    }
    code = MERGE.format()
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pods = [json.loads(line[3:]) for line in done.stdout.splitlines() if line.startswith("POD")]
    limits = [pod["spec"]["containers"][0].get("resources", {}).get("limits") for pod in pods]
    assert limits == [None] + [{"nvidia.com/gpu": "1"}] * 3
    for pod in pods:
        [container] = pod["spec"]["containers"]
        assert container["name"] == "base"
        assert container["image"] == "registry.example/medpipe:cuda"
        assert container["volumeMounts"] == [{"mountPath": "/data", "name": "data"}]


def test_files_of_deploy_are_what_they_say() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert {
        "postgres",
        "redis",
        "api-server",
        "scheduler",
        "dag-processor",
        "triggerer",
        "worker-cpu",
        "worker-gpu",
    } <= set(compose["services"])
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for service in compose["services"].values():
        if "build" in service:
            assert f" AS {service['build']['target']}" in dockerfile
    for line in dockerfile.splitlines():
        if line.startswith("COPY"):
            *sources, _ = line.split()[2:]
            assert all((ROOT / source).exists() for source in sources)
    values = yaml.safe_load((ROOT / "deploy" / "values.yaml").read_text())
    assert values["executor"] == "KubernetesExecutor"
