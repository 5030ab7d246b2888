"""The four stages in their order, and the one function that runs a stage over a shard.

A run of a partition is: ``plan`` (list the sources, leave out what was done before, cut the rest into
shards), ``run_stage`` for every stage and shard, ``publish``. The command line walks these functions over
one shard in one process, the DAG over many shards on many workers; the rows are the same.

The work area of a run lies outside the tables, at a place that depends on nothing but its input, so that a
run that was killed finds it again::

    WAREHOUSE/_work/dt=2026-01-31/<digest>/plan.json
                                           shard-00000/ingest.json
                                                       chunk-00000/documents.parquet, sections.parquet, …
                                                                   tag.json

A chunk is a few hundred whole documents, sorted by document id: what a stage holds in memory at a time. Files
are written aside and renamed; a stage's ``<stage>.json`` comes last and says that the chunk is done.
"""

from __future__ import annotations

from medpipe.pipeline.chunks import Progress
from medpipe.pipeline.encounters import summarize_encounters
from medpipe.pipeline.line import partition_of_today, run
from medpipe.pipeline.planning import find_work, plan, plan_night
from medpipe.pipeline.publishing import publish
from medpipe.pipeline.runs import stage_metrics
from medpipe.pipeline.stages import run_stage

__all__ = [
    "Progress",
    "find_work",
    "partition_of_today",
    "plan",
    "plan_night",
    "publish",
    "run",
    "run_stage",
    "stage_metrics",
    "summarize_encounters",
]
