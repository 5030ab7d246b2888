"""The DAG that learns from a site's corrections: thin. What it does is ``medpipe.learn.registry``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from medpipe.orchestrate import COMMON, MODEL, SETTINGS, by_the_clock, place, settings_of_run, without_note_text

KNOBS = ("corrections", "registry", "warehouse")

# What Airflow's page of the DAG shows.
GUIDE = """
### medpipe: learn from corrections

Continues the tagger on corrected notes and puts the new version in use only if it is better: better on the held-out
part of the corrections, and at most 0.5 F1 worse on what `hold` names. By hand, or by the clock (setting
`retrain_cron`). A night uses the newest version with `MEDPIPE_TAGGER=REGISTRY/tagger/current`; one that has begun ends
with the version that it began with.

- `corrections`: a brat folder (`medpipe export brat`, corrected) or JSON lines; the setting `corrections` if empty.
- `hold`: held-out data of the labels that the corrections do not cover; the setting `hold` if empty. Needed.
- `labels`: TOML map from the corrections' types to the model's labels; not needed where they have the same names.
- `replay`: whether sentences of the warehouse are met again, so that less is forgotten.
- `config`: name or TOML file of a config with a table `continual`; the measured defaults if empty.
- `registry`: where the versions lie; the setting `registry` if empty. `REGISTRY/tagger/history.json` tells of all.
- `warehouse`: the setting `warehouse` if empty.

**Skipped** from `plan_round` on: there are no corrections, or no others than the last time. **Skipped** `promote`: the
candidate was not better; it stays in `VERSION.candidate` with its figures. Otherwise `promote` emits the asset
`medpipe.model.tagger`; `medpipe_maintenance` then does older partitions again. **Failed**: the log names a code and
what to do; a cleared `train` goes on from its last checkpoint.
"""


@dag(
    dag_id="medpipe_retrain",
    schedule=by_the_clock(SETTINGS.retrain_cron),
    start_date=datetime(2026, 1, 1),
    params={
        "corrections": Param(
            None, type=["null", "string"], description="Brat folder or JSON lines of corrected notes."
        ),
        "hold": Param(
            None, type=["null", "array"], items={"type": "string"}, description="Held-out data of the old labels."
        ),
        "labels": Param(None, type=["null", "string"], description="TOML map of the corrections' types."),
        "replay": Param(True, type="boolean", description="Meet sentences of the warehouse again."),
        "config": Param(None, type=["null", "string"], description="Config with a table `continual`."),
        "registry": Param(None, type=["null", "string"], description="Where the model versions lie."),
        "warehouse": Param(None, type=["null", "string"], description="Where the tables lie."),
    },
    doc_md=GUIDE,
    **COMMON,
)
def medpipe_retrain() -> None:
    """plan_round -> train (fine-tune, evaluate, judge) -> promote."""

    @task
    def plan_round() -> dict[str, Any]:
        """Says which model is continued on which corrections, and what the new version is called."""
        from medpipe.learn import registry

        params, settings = get_current_context()["params"], settings_of_run(*KNOBS, "hold")
        if settings.corrections is None or not settings.corrections.exists():
            raise AirflowSkipException(f"there are no corrections at {settings.corrections}")
        with without_note_text():
            planned = registry.plan_round(
                settings.registry,
                settings.corrections,
                model=settings.tagger,
                labels=Path(params["labels"]) if params["labels"] else None,
                hold=settings.hold,
                config=params["config"],
            )
        if planned is None:
            raise AirflowSkipException("the corrections are those of the last round")
        return asdict(planned)

    @task(**place("tag"))
    def train(planned: dict[str, Any]) -> dict[str, Any]:
        """Fine-tunes, evaluates and judges; returns figures."""
        from medpipe.lake.warehouse import partitions
        from medpipe.learn import registry
        from medpipe.learn.config import load_config

        params, settings = get_current_context()["params"], settings_of_run(*KNOBS, "hold")
        with without_note_text():
            return registry.train_round(
                registry.Round(**planned),
                Path(str(settings.corrections)),
                labels=Path(params["labels"]) if params["labels"] else None,
                hold=settings.hold,
                notes=settings.warehouse if params["replay"] and partitions(settings.warehouse) else None,
                config=load_config(params["config"]) if params["config"] else None,
                device=settings.device,
            )

    @task(outlets=[MODEL])
    def promote(planned: dict[str, Any], figures: dict[str, Any], *, outlet_events: Any) -> dict[str, Any]:
        """Puts the new version in use, or notes why not."""
        from medpipe.learn import registry

        with without_note_text():
            registry.finish_round(registry.Round(**planned), figures)
        if not figures["promoted"]:
            raise AirflowSkipException(f"not promoted: {figures['reason']}")
        outlet_events[MODEL].extra = {name: figures[name] for name in ("version", "before", "after")}
        return figures

    planned = plan_round()
    promote(planned, train(planned))


medpipe_retrain()
