"""The command line: thin; each command reads its options, calls one function and prints.

stdout carries what was asked for (with ``--json`` one JSON object and nothing else); progress, funnel and logs go
to stderr. Exit codes: 0 done, 2 wrong usage, 3 input cannot be read, 4 contract or quality gate failed,
5 environment (disk, device, permission), 70 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date as calendar_date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medpipe import __version__, errors
from medpipe.errors import MedpipeError
from medpipe.settings import STAGES, Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console

    from medpipe.pipeline import Progress
    from medpipe.report.notes import Note

app = typer.Typer(
    name="medpipe",
    help="Turns clinical documents into tables people can rely on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with locals would show note text
    context_settings={"help_option_names": ["-h", "--help"]},
)
schema_app = typer.Typer(help="The contracts of the tables.", no_args_is_help=True)
app.add_typer(schema_app, name="schema")
export_app = typer.Typer(help="The tables, and models, in other formats.", no_args_is_help=True)
app.add_typer(export_app, name="export")

DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ProfileOption = Annotated[
    str | None,
    typer.Option(help="fast (tagger in bfloat16, summaries are extracts), standard or accurate (a larger tagger)."),
]
DateOption = Annotated[str | None, typer.Option("--date", help="Partition, YYYY-MM-DD; today (UTC) if not given.")]
WarehouseOption = Annotated[
    str | None, typer.Option("--warehouse", help="Where the tables lie: a folder, s3://…, gs://… or abfs://….")
]
ShardOption = Annotated[str | None, typer.Option(help="I/N: shard I of N (from 1); all if not given.")]
TerminologyOption = Annotated[
    list[Path] | None,
    typer.Option("--terminology", help="File with codes for mentions: code, system, term; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]
MappingOption = Annotated[
    Path | None, typer.Option("--mapping", help="TOML file that says which columns of tables are what.")
]
TextColumn = Annotated[str | None, typer.Option("--text-column", help="Column of the notes' text, of tables.")]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="Column that names a note.")]
PatientColumn = Annotated[str | None, typer.Option("--patient-column", help="Column of the patient's id.")]
EncounterColumn = Annotated[str | None, typer.Option("--encounter-column", help="Column of the encounter's id.")]
DateColumn = Annotated[str | None, typer.Option("--date-column", help="Column of the note's date.")]
TypeColumn = Annotated[str | None, typer.Option("--type-column", help="Column of the note's type.")]
AcceptOption = Annotated[
    bool, typer.Option("--accept", help="Publish a partition that is not like those before (QUALITY_HELD).")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes, no funnel.")]


def main() -> None:
    """Runs the command line and ends the process with the exit code of the README."""
    logging.basicConfig(
        level=os.environ.get("MEDPIPE_LOG", "WARNING").upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character of a note shows "?"
            stream.reconfigure(errors="replace")
    try:
        stopped = app(standalone_mode=False)  # click gives back the code of typer.Exit
        code = stopped if isinstance(stopped, int) else errors.EXIT_DONE
    except MedpipeError as error:
        print(f"medpipe: {error}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("medpipe: interrupted; run the same command again to go on", file=sys.stderr)
        code = errors.EXIT_INTERRUPTED
    except BrokenPipeError:  # `medpipe run … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = errors.EXIT_DONE
    except Exception as error:
        if hasattr(error, "show"):  # click's usage errors show themselves
            error.show()
            code = errors.EXIT_USAGE
        else:
            report_bug(error)
            code = errors.EXIT_BUG
    sys.exit(code)


def report_bug(error: Exception) -> None:
    """Prints where an unforeseen error arose, and its kind, but not its message: that may quote a note."""
    print(
        f"medpipe: BUG: {type(error).__name__}; please report it with these lines (they hold no note text)",
        file=sys.stderr,
    )
    traceback.print_tb(error.__traceback__)


def version_option(asked: bool) -> None:
    """Prints the version and stops."""
    if asked:
        print(f"medpipe {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=version_option, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turns clinical documents into tables people can rely on."""


# --- run and its stages ---------------------------------------------------------------------


@app.command()
def run(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns, URLs, or - for standard input.")
    ],
    out: Annotated[str | None, typer.Option("--out", help="Where the tables go (default: medpipe-out).")] = None,
    date: DateOption = None,
    format: Annotated[str | None, typer.Option(help="Name of a reader; found by content if not given.")] = None,
    mapping: MappingOption = None,
    text_column: TextColumn = None,
    id_column: IdColumn = None,
    patient_column: PatientColumn = None,
    encounter_column: EncounterColumn = None,
    date_column: DateColumn = None,
    type_column: TypeColumn = None,
    device: DeviceOption = None,
    profile: ProfileOption = None,
    terminology: TerminologyOption = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Relations from this score on; else the model's own thresholds.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="How many notes to print.")] = 10,
    report: Annotated[Path | None, typer.Option(help="HTML file to write the notes to, for a browser.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each relation rests on: its sentences, the path of attention.")
    ] = False,
    accept: AcceptOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Reads notes, finds entities, relations and summaries, prints them and writes the tables."""
    from medpipe import pipeline
    from medpipe.ingest.sources import find_sources

    settings = load_settings(
        warehouse=out,
        device=device,
        profile=profile,
        format=format,
        mapping=mapping,
        text_column=text_column,
        id_column=id_column,
        patient_column=patient_column,
        encounter_column=encounter_column,
        date_column=date_column,
        type_column=type_column,
        terminology=as_files(terminology),
        min_relation_score=min_score,
    )
    partition = parse_date(date)
    if report is not None:
        from medpipe.report.html import check_page_path

        check_page_path(report)
    console = stderr_console()
    with spooled_input(paths, settings) as inputs:
        names = frozenset(source.name for source in find_sources(inputs))
        with progress_bar(console, hidden=quiet or as_json) as progress:
            outcome = pipeline.run(settings, partition, inputs, accept=accept, progress=progress)
    if report is not None:
        write_notes_page(report, settings.warehouse, partition, names)
    if as_json:
        print_json(outcome, settings, names, explain=explain)
    elif not quiet:
        print_notes(settings, partition, names, show, explain=explain)
    if not quiet:
        from medpipe.report.terminal import print_funnel

        print_funnel(console, outcome, str(settings.warehouse))
        if report is not None:
            console.print(f"Page: {report}", markup=False)


@app.command()
def ingest(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, patterns; default: the landing folder.")
    ] = None,
    warehouse: WarehouseOption = None,
    date: DateOption = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: plan N shards and read shard I (from 1); all if not given.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Name of a reader; found by content if not given.")] = None,
    mapping: MappingOption = None,
    text_column: TextColumn = None,
    id_column: IdColumn = None,
    patient_column: PatientColumn = None,
    encounter_column: EncounterColumn = None,
    date_column: DateColumn = None,
    type_column: TypeColumn = None,
    profile: ProfileOption = None,
    terminology: TerminologyOption = None,
) -> None:
    """Plans a partition and reads its sources into the work area (stage 1).

    The plan holds what decides the rows of all stages: what --profile and --terminology name here, `medpipe tag` and,
    of the profile, `medpipe summarize` must name too.
    """
    from medpipe import pipeline

    settings = load_settings(
        warehouse=warehouse,
        format=format,
        mapping=mapping,
        text_column=text_column,
        id_column=id_column,
        patient_column=patient_column,
        encounter_column=encounter_column,
        date_column=date_column,
        type_column=type_column,
        profile=profile,
        terminology=as_files(terminology),
    )
    partition = parse_date(date)
    number, count = parse_shard(shard)
    inputs = paths or [settings.landing.replace("{date}", partition)]
    night = pipeline.plan(settings, partition, inputs, shards=count)
    print_counts(run_shards("ingest", night["work"], number, settings))


def stage_command(stage: str, help_text: str) -> None:
    """Adds the command of one later stage: over what the stages before it left in the work area."""

    @app.command(stage, help=help_text)
    def command(
        warehouse: WarehouseOption = None,
        date: DateOption = None,
        shard: ShardOption = None,
        device: DeviceOption = None,
    ) -> None:
        run_one_stage(stage, warehouse, date, shard, device)


def run_one_stage(
    stage: str, warehouse: str | None, date: str | None, shard: str | None, device: str | None, **flags: Any
) -> None:
    """Runs a stage over the work area of a partition and prints its counts."""
    from medpipe import pipeline

    settings = load_settings(warehouse=warehouse, device=device, **flags)
    work = pipeline.find_work(settings, parse_date(date))
    print_counts(run_shards(stage, work, parse_shard(shard)[0], settings))


@app.command()
def tag(
    warehouse: WarehouseOption = None,
    date: DateOption = None,
    shard: ShardOption = None,
    device: DeviceOption = None,
    profile: ProfileOption = None,
    terminology: TerminologyOption = None,
) -> None:
    """Finds the entities of what was ingested (stage 2)."""
    run_one_stage("tag", warehouse, date, shard, device, profile=profile, terminology=as_files(terminology))


stage_command("relate", "Finds the relations of what was tagged (stage 3).")


@app.command()
def summarize(
    warehouse: WarehouseOption = None,
    date: DateOption = None,
    shard: ShardOption = None,
    device: DeviceOption = None,
    per: Annotated[
        str,
        typer.Option(help="note; or encounter: one summary over its notes in the order of time, of a published day."),
    ] = "note",
    out: Annotated[
        Path | None, typer.Option(help="With --per encounter: the Parquet file, with the columns of `summaries`.")
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Summarizes what was tagged and related (stage 4), or each encounter of a published day."""
    check_choice("--per", per, ("note", "encounter"))
    if (per == "encounter") != (out is not None) or (per == "encounter" and shard is not None):
        reason = "it is needed with --per encounter" if out is None else "it goes with --per encounter, without --shard"
        raise MedpipeError("SETTING_INVALID", name="--out", reason=reason)
    if out is None:
        run_one_stage("summarize", warehouse, date, shard, device, profile=profile)
        return
    from medpipe import pipeline

    settings = load_settings(warehouse=warehouse, device=device, profile=profile)
    print_counts(pipeline.summarize_encounters(settings, parse_date(date), out))


@app.command()
def publish(warehouse: WarehouseOption = None, date: DateOption = None, accept: AcceptOption = False) -> None:
    """Merges what the four stages left in the work area into the tables, atomically."""
    from medpipe import pipeline

    settings = load_settings(warehouse=warehouse)
    outcome = pipeline.publish(pipeline.find_work(settings, parse_date(date)), settings, accept=accept)
    print(json.dumps({"partition": outcome["partition"], "rows": outcome["rows"]}))


@app.command()
def maintain(
    warehouse: WarehouseOption = None,
    action: Annotated[
        list[str] | None,
        typer.Option("--action", help="work, compact, reprocess or quarantine; repeatable; all if not given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    landing: Annotated[
        str | None, typer.Option(help="Where sources lie, of which records were quarantined; {date}: the partition.")
    ] = None,
    work_days: Annotated[
        float | None, typer.Option(min=0, help="Remove work areas that nobody touched for so many days.")
    ] = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Do so many partitions again at most, the newest first.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(min=1, help="Do not try a document again that was refused so many times.")
    ] = None,
    device: DeviceOption = None,
    profile: ProfileOption = None,
    terminology: TerminologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Clears old work areas and left-overs, does again what older models made, tries quarantined records again.

    What `medpipe run` was told of models, profile, terminology and mapping must be told here, too (medpipe.toml).
    """
    from medpipe import maintain as maintenance

    for one in action or ():
        check_choice("--action", one, maintenance.ACTIONS)
    settings = load_settings(
        warehouse=warehouse, landing=landing, device=device, profile=profile, terminology=as_files(terminology),
        work_days=work_days, maintenance_partitions=partitions, max_attempts=max_attempts,
    )  # fmt: skip
    outcome = maintenance.maintain(
        settings,
        action or maintenance.ACTIONS,
        dry_run=dry_run,
        report=(lambda line: None) if as_json else (lambda line: print(line, file=sys.stderr, flush=True)),
    )
    print(json.dumps(outcome) if as_json else json.dumps(outcome, indent=1))
    if any(counts.get("failed") for counts in outcome.values()):
        raise typer.Exit(errors.EXIT_ENVIRONMENT)


def run_shards(stage: str, work: str, number: int | None, settings: Settings) -> dict[str, float]:
    """Runs a stage over one shard (numbered from 1) or over all, and returns the sum of its counts."""
    from collections import Counter

    from medpipe import pipeline
    from medpipe.pipeline import planning

    total: Counter[str] = Counter()
    shards = range(len(planning.read_plan(work)["shards"])) if number is None else [number - 1]
    for shard in shards:
        total.update(pipeline.run_stage(stage, work, shard, settings))
    return dict(total)


# --- models ---------------------------------------------------------------------------------


@app.command()
def train(
    model_kind: Annotated[str, typer.Argument(metavar="MODEL", help="tagger, relations or summarizer.")],
    out: Annotated[Path, typer.Option(help="Where the model and its checkpoints go.")],
    config: Annotated[str | None, typer.Option(help="Name of a shipped config, or a TOML file.")] = None,
    corpora: Annotated[Path | None, typer.Option(help="Folder that holds the corpora of the config.")] = None,
    corrections: Annotated[
        Path | None,
        typer.Option("--from", help="Corrections to continue a tagger on: a BRAT folder, or JSON lines."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --from: the model to continue; default: tagger.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="With --from: TOML map from the corrections' types to the model's labels.")
    ] = None,
    hold: Annotated[
        list[Path] | None,
        typer.Option(help="With --from: held-out data of the old labels; default: the dev sets in --corpora."),
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(help="With --from: a warehouse of unannotated notes on which the old model's answers are held."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    device: DeviceOption = None,
) -> None:
    """Trains a model: killed and started again with --resume, it goes on from its last checkpoint.

    With --from, continues a tagger on a site's corrections; --notes and --corpora are then what is replayed so that
    less is forgotten. The model takes its place at --out only where it is better on the held-out part of the
    corrections and not more than 0.5 F1 worse on --hold; else it stays in OUT.candidate and the exit code is 4.
    """
    from importlib import import_module

    from medpipe.learn.config import load_config

    check_choice("model", model_kind, ("tagger", "relations", "summarizer"))
    settings = load_settings(device=device)
    common: dict[str, Any] = {
        "out": out, "corpora": corpora, "device": settings.device, "resume": resume,
        "report": lambda line: print(line, file=sys.stderr, flush=True),
    }  # fmt: skip
    if corrections is not None:
        check_choice("--from", model_kind, ("tagger",))
        from medpipe.learn.continual import continue_training

        figures = continue_training(
            corrections, model=model or "tagger", labels=labels, hold=hold or (), notes=notes,
            config=load_config(config) if config else None, **common,
        )  # fmt: skip
    else:
        for name, given, needed in (
            ("--config", config, True), ("--corpora", corpora, True),
            ("--model", model, False), ("--labels", labels, False), ("--hold", hold, False), ("--notes", notes, False),
        ):  # fmt: skip
            if needed != bool(given):
                reason = "it is needed" if needed else "it belongs to --from"
                raise MedpipeError("SETTING_INVALID", name=name, reason=reason)
        figures = import_module(f"medpipe.learn.{model_kind}").train(load_config(str(config)), **common)
    print(json.dumps(figures, indent=1, default=str))


@app.command()
def retrain(
    corrections: Annotated[
        Path | None, typer.Option("--from", help="Corrected notes: a BRAT folder, or JSON lines.")
    ] = None,
    hold: Annotated[list[Path] | None, typer.Option(help="Held-out data of the old labels; repeatable.")] = None,
    registry: Annotated[Path | None, typer.Option(help="Where model versions lie (default: models).")] = None,
    labels: Annotated[Path | None, typer.Option(help="TOML map from the corrections' types to the labels.")] = None,
    notes: Annotated[Path | None, typer.Option(help="A warehouse of notes to replay.")] = None,
    config: Annotated[str | None, typer.Option(help="Config with a table `continual`.")] = None,
    device: DeviceOption = None,
) -> None:
    """Continues the tagger of a registry on corrections; the new version is in use only if it is better, else exit 4.

    What the DAG medpipe_retrain does. The registry's version in use is REGISTRY/tagger/current.
    """
    from medpipe.learn import registry as versions
    from medpipe.learn.config import load_config

    settings = load_settings(
        corrections=corrections, hold=tuple(hold) if hold else None, registry=registry, device=device
    )
    if settings.corrections is None:
        raise MedpipeError("SETTING_INVALID", name="--from", reason="it is needed")
    planned = versions.plan_round(
        settings.registry, settings.corrections, model=settings.tagger, labels=labels, hold=settings.hold, config=config
    )
    if planned is None:
        print("medpipe: the corrections are those of the last round; there is nothing to learn", file=sys.stderr)
        return
    figures = versions.train_round(
        planned, settings.corrections, labels=labels, hold=settings.hold, notes=notes,
        config=load_config(config) if config else None, device=settings.device,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    versions.finish_round(planned, figures)
    print(json.dumps(figures, indent=1))
    if not figures["promoted"]:
        path = Path(planned.folder) / f"{planned.version}.candidate"
        raise MedpipeError("PROMOTION_REFUSED", reason=figures["reason"], path=path)


@app.command()
def evaluate(
    model_kind: Annotated[
        str, typer.Argument(metavar="KIND", help="tagger, assertion, codes, relations or summarizer.")
    ],
    corpus: Annotated[Path, typer.Option(help="Annotated JSON lines; see README, Train.")],
    model: Annotated[str | None, typer.Option(help="Name of a shipped model, or a folder.")] = None,
    labels: Annotated[Path | None, typer.Option(help="TOML map from the corpus's labels to the model's.")] = None,
    style: Annotated[
        str | None,
        typer.Option(help="For the tagger: whose conventions it follows; those of the corpus if not given."),
    ] = None,
    terminology: Annotated[
        list[Path] | None,
        typer.Option("--terminology", help="For codes: a terminology, or JSON lines whose mentions are its terms."),
    ] = None,
    device: DeviceOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Scores a model on a corpus: exact spans, codes, relations with gold and predicted entities, ROUGE."""
    from medpipe.evaluate import run as scores

    check_choice("kind", model_kind, tuple(scores.EVALUATIONS))
    settings = load_settings(device=device, profile=profile, terminology=as_files(terminology))
    figures = scores.evaluate(
        model_kind,
        corpus,
        model=model,
        labels=labels,
        style=style,
        device=settings.device,
        profile=settings.profile,
        terminology=settings.terminology,
    )
    if as_json:
        print(json.dumps(figures))
    else:
        from rich.console import Console

        from medpipe.report.scores import print_scores

        print_scores(Console(), figures)


@app.command()
def bench(
    part: Annotated[
        str | None, typer.Argument(help="ingest, tag, relate, summarize or run; all five if not given; reuse, scale.")
    ] = None,
    notes: Annotated[int, typer.Option(min=1, help="How many notes to generate.")] = 200,
    rows: Annotated[int, typer.Option(min=1, help="With scale: how many rows to generate.")] = 10_000_000,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of every note; a mix of 100 to 8,000 if not given.")
    ] = None,
    device: DeviceOption = None,
    profile: ProfileOption = None,
    peers: Annotated[
        list[str] | None,
        typer.Option("--peers", help="With tag: SCRIPT.py=MODEL of another tagger to compare with; repeatable."),
    ] = None,
    peers_python: Annotated[
        str | None, typer.Option("--peers-python", help="With --peers: the Python of their environment.")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="With --peers: annotated JSON lines, the text of all.")] = None,
    model: Annotated[str | None, typer.Option(help="With --peers: our model; trained on the same corpus.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="With --peers: threads of each; default: all.")] = None,
    words: Annotated[int, typer.Option(min=1, help="With --peers: words of a round.")] = 50_000,
    as_json: JsonOption = False,
) -> None:
    """Measures speed, padding and memory on generated notes, each part in a process of its own.

    With --peers, measures every profile of the tagger and other taggers on the texts of --corpus, in turn. `reuse`:
    nights whose notes were done before, all or nine in ten. `scale`: plan and publish of generated rows, no models.
    """
    from medpipe.evaluate import bench as benchmark

    if part is not None:
        check_choice("part", part, (*benchmark.PARTS, *benchmark.NIGHTS))
    if part in benchmark.NIGHTS:
        figures = measure_nights(part, notes, tokens, rows, load_settings(device=device).device, quiet=as_json)
        print(json.dumps(figures, indent=None if as_json else 1))
        return
    if peers:
        compare_peers(
            part, peers, peers_python, corpus, as_json=as_json, model=model or "tagger", threads=threads, words=words
        )
        return
    settings = load_settings(device=device, profile=profile)
    figures = benchmark.measure(
        part, notes=notes, tokens=tokens, device=settings.device, profile=settings.profile, quiet=as_json
    )
    if as_json:
        print(json.dumps(figures))
    else:
        from rich.console import Console

        from medpipe.report.scores import print_bench

        print_bench(Console(), figures)


def measure_nights(
    part: str, notes: int, tokens: int | None, rows: int, device: str, *, quiet: bool
) -> dict[str, Any]:
    """Measures nights of which all or most was done before, or plan and publish of a large one."""
    from medpipe.evaluate.bench_reuse import measure_reuse
    from medpipe.evaluate.bench_scale import measure_scale

    if part == "reuse":
        return measure_reuse(notes, tokens, "cpu" if device == "auto" else device, quiet=quiet)
    return measure_scale(rows, quiet=quiet)


def compare_peers(
    part: str | None, peers: list[str], python: str | None, corpus: Path | None, *, as_json: bool, **options: Any
) -> None:
    """Measures our tagger and others on one corpus and prints the figures."""
    from medpipe.evaluate.bench_peers import measure_peers

    for name, given in (("--peers", part == "tag"), ("--peers-python", python), ("--corpus", corpus)):
        if not given:
            reason = "it belongs to `bench tag`" if name == "--peers" else "--peers needs it"
            raise MedpipeError("SETTING_INVALID", name=name, reason=reason)
    figures = measure_peers(Path(str(corpus)), peers=peers, python=str(python), **options)
    if as_json:
        print(json.dumps(figures))
    else:
        from rich.console import Console

        from medpipe.report.scores import print_peers

        print_peers(Console(), figures)


# --- contracts and health -------------------------------------------------------------------


@schema_app.command("list")
def schema_list() -> None:
    """Lists the tables and the versions of their contracts."""
    from medpipe.lake import contracts

    for table in contracts.TABLES:
        print(f"{table:<12} {' '.join(contracts.versions(table))}")


@schema_app.command("show")
def schema_show(table: str, version: Annotated[str | None, typer.Option(help="Current if not given.")] = None) -> None:
    """Shows the columns of a table: type, nullability, meaning."""
    from rich.console import Console
    from rich.table import Table

    from medpipe.lake import contracts

    shown = Table("column", "type", "null", "meaning", title=f"{table} {version or contracts.current_version(table)}")
    for field in contracts.arrow_schema(table, version):
        meaning = (field.metadata or {}).get(b"description", b"").decode()
        shown.add_row(field.name, str(field.type), "yes" if field.nullable else "no", meaning)
    Console().print(shown)


@schema_app.command("json")
def schema_json() -> None:
    """Prints the JSON Schema of what `medpipe run --json` prints."""
    from medpipe.report.run_schema import run_schema

    print(json.dumps(run_schema(), indent=1, ensure_ascii=False))


@schema_app.command("check")
def schema_check(warehouse: WarehouseOption = None, as_json: JsonOption = False) -> None:
    """Checks every partition of a warehouse against the contracts; exit code 4 if one breaks them."""
    from medpipe.lake import warehouse as lake

    settings = load_settings(warehouse=warehouse)
    findings = lake.check(settings.warehouse)
    if as_json:
        print(json.dumps({"findings": [str(finding) for finding in findings]}))
    else:
        for finding in findings:
            print(finding)
        if not findings:
            print(f"{settings.warehouse}: {len(lake.partitions(settings.warehouse))} partitions keep their contracts")
    if findings:
        raise typer.Exit(errors.EXIT_CONTRACT)


@schema_app.command("diff")
def schema_diff(
    table: Annotated[str | None, typer.Argument(help="All tables and versions if not given.")] = None,
    old: Annotated[str | None, typer.Argument(help="A version; all of the table if not given.")] = None,
    new: Annotated[str | None, typer.Argument(help="A later version.")] = None,
) -> None:
    """Says what changed between versions of a contract: patch, minor or major, and why.

    Exit code 4 where a version's number says less than what changed, or a released version was changed.
    """
    from medpipe.lake import contracts

    if table is not None and old is not None:
        new = new or contracts.current_version(table)
        change, said = contracts.diff(table, old, new), contracts.declared(old, new)
        print(change)
        if contracts.LEVELS.index(said) < contracts.LEVELS.index(change.level):
            print(f"the version numbers say {said}", file=sys.stderr)
            raise typer.Exit(errors.EXIT_CONTRACT)
        return
    tables = contracts.TABLES if table is None else (table,)
    for one in tables:
        known = contracts.versions(one)
        for before, after in pairwise(known):
            print(f"{one} {before} -> {after}: {contracts.diff(one, before, after)}")
    problems = contracts.review(tables)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise typer.Exit(errors.EXIT_CONTRACT)


@schema_app.command("migrate")
def schema_migrate(warehouse: WarehouseOption = None) -> None:
    """Rewrites partitions that earlier major versions made; they can be read without it."""
    from medpipe.lake.publish import migrate

    print(json.dumps({"migrated": migrate(load_settings(warehouse=warehouse).warehouse)}))


@schema_app.command("docs")
def schema_docs() -> None:
    """Prints the data dictionary, made from the contracts, as Markdown."""
    from medpipe.lake.dictionary import write_dictionary

    print(write_dictionary(), end="")


@app.command()
def catalog(
    warehouse: WarehouseOption = None,
    out: Annotated[Path | None, typer.Option(help="The file (default: catalog.duckdb in the warehouse).")] = None,
) -> None:
    """Writes a DuckDB file of views over the warehouse: the tables, latest_*, patient_timeline, disease_symptom."""
    from medpipe.export.catalog import write_catalog

    print(json.dumps(write_catalog(load_settings(warehouse=warehouse).warehouse, out)))


@export_app.command("brat")
def export_brat(
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new or empty.")],
    warehouse: WarehouseOption = None,
    date: Annotated[str | None, typer.Option("--date", help="Partition, YYYY-MM-DD; all if not given.")] = None,
) -> None:
    """Writes every processed note with its entities, assertions and relations as a BRAT folder, to be corrected."""
    from medpipe.export import brat

    root, partition = export_source(warehouse, date)
    print_counts({**brat.export_brat(root, out, partition=partition)})


OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write; it must be new or empty.")]
ExportDate = Annotated[str | None, typer.Option("--date", help="Partition, YYYY-MM-DD; all if not given.")]


@export_app.command("omop")
def export_omop(
    out: OutFolder,
    warehouse: WarehouseOption = None,
    date: ExportDate = None,
    format: Annotated[str, typer.Option(help="csv or parquet.")] = "csv",
    persons: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with person_id and person_source_value; else numbered.")
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Folder with CONCEPT.csv and CONCEPT_RELATIONSHIP.csv of Athena.")
    ] = None,
) -> None:
    """Writes NOTE and NOTE_NLP of OMOP CDM 5.4."""
    from medpipe.export import omop

    root, partition = export_source(warehouse, date)
    options: dict[str, Any] = {"format": format, "persons": persons, "vocabulary": vocabulary}
    print_counts({**omop.export_omop(root, out, partition=partition, **options)})


@export_app.command("fhir")
def export_fhir(out: OutFolder, warehouse: WarehouseOption = None, date: ExportDate = None) -> None:
    """Writes FHIR R4 as NDJSON: Condition, Observation, MedicationStatement with their Provenance, and the notes."""
    from medpipe.export import fhir

    root, partition = export_source(warehouse, date)
    print_counts({**fhir.export_fhir(root, out, partition=partition)})


@export_app.command("spacy")
def export_spacy(out: OutFolder, warehouse: WarehouseOption = None, date: ExportDate = None) -> None:
    """Writes every processed note as a Doc of spaCy, in DocBin files (needs medpipe[spacy])."""
    from medpipe.export import spacy_docs

    root, partition = export_source(warehouse, date)
    print_counts({**spacy_docs.export_spacy(root, out, partition=partition)})


@export_app.command("jsonl")
def export_jsonl(
    out: Annotated[Path, typer.Option(help="File to write.")],
    warehouse: WarehouseOption = None,
    date: ExportDate = None,
) -> None:
    """Writes every processed note as a line of JSON, in the corpus format."""
    from medpipe.export import lines

    root, partition = export_source(warehouse, date)
    print_counts({**lines.export_jsonl(root, out, partition=partition)})


@export_app.command("csv")
def export_csv(out: OutFolder, warehouse: WarehouseOption = None, date: ExportDate = None) -> None:
    """Writes every table as CSV."""
    from medpipe.export import comma_separated

    root, partition = export_source(warehouse, date)
    print_counts({**comma_separated.export_csv(root, out, partition=partition)})


def export_source(warehouse: str | None, date: str | None) -> tuple[Path, str | None]:
    """Returns the warehouse and the partition that an export is made of; ``None``: all partitions."""
    return load_settings(warehouse=warehouse).warehouse, parse_date(date) if date is not None else None


@app.command("report")
def write_report(
    document_id: Annotated[
        str | None, typer.Argument(help="Id of a note, or enough of its beginning; none: the page of a run.")
    ] = None,
    warehouse: WarehouseOption = None,
    run: Annotated[bool, typer.Option("--run", help="The page of a run: of --date, else the newest.")] = False,
    date: Annotated[str | None, typer.Option("--date", help="Partition, YYYY-MM-DD; the newest if not given.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: note-ID.html or run-DATE.html), or - for stdout.")
    ] = None,
) -> None:
    """Writes the page of a note, or of a run: one HTML file that needs no network."""
    from medpipe.report.html import write_page

    settings = load_settings(warehouse=warehouse)
    partition = parse_date(date) if date is not None else None
    if document_id is not None and run:
        raise MedpipeError("SETTING_INVALID", name="--run", reason="it goes without the id of a note")
    if document_id is not None:
        from medpipe.report.note_page import note_page
        from medpipe.report.notes import find_note

        note = find_note(settings.warehouse, document_id, partition)
        name, page = f"note-{note.document['document_id'][:12]}.html", note_page([note])
    else:
        from medpipe.report.run_figures import figures, find_partition
        from medpipe.report.run_page import run_page

        partition = find_partition(settings.warehouse, partition)
        name, page = f"run-{partition}.html", run_page(figures(settings.warehouse, partition))
    if str(out) == "-":
        sys.stdout.buffer.write(page.encode())
    else:
        write_page(out or Path(name), page)
        print(out or name)


@export_app.command("int8")
def export_int8(
    out: Annotated[Path, typer.Option(help="Folder of the new model; it must be new or empty.")],
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder.")] = "tagger",
) -> None:
    """Writes a model with its matrices in eight bits: a quarter of its size in float32, and about the same answers."""
    from medpipe import weights

    print_counts({**weights.export_int8(model, out)})


@export_app.command("knowledge-graph")
def export_knowledge_graph(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    warehouse: WarehouseOption = None,
    date: Annotated[str | None, typer.Option("--date", help="Partition, YYYY-MM-DD; all if not given.")] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave out relations below this score.")] = 0.0,
    min_documents: Annotated[int, typer.Option(min=1, help="Leave out pairs seen in fewer documents.")] = 1,
    top: Annotated[int, typer.Option(min=1, help="How many concepts to draw.")] = 15,
) -> None:
    """Writes what all relations say together: a table of pairs of concepts (Parquet), drawn as SVG and HTML."""
    from medpipe.export import knowledge_graph

    settings = load_settings(warehouse=warehouse)
    partition = parse_date(date) if date is not None else None
    counts = knowledge_graph.export_knowledge_graph(
        settings.warehouse, out, partition=partition, min_score=min_score, min_documents=min_documents, top=top
    )
    print_counts({**counts})


@app.command()
def doctor(
    warehouse: WarehouseOption = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="The GPUs alone: what, how fast, how large a batch; exit code 5: none.")
    ] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tells what is installed, which device and models there are, and whether the warehouse is healthy."""
    from medpipe.report import doctor as examination

    settings = load_settings(warehouse=warehouse, device=device)
    if gpu:
        from medpipe.gpu import examine_gpus

        findings = examine_gpus(settings.device)
    else:
        findings = examination.examine(settings)
    if as_json:
        print(json.dumps(findings))
    else:
        from rich.console import Console

        (examination.print_gpus if gpu else examination.print_findings)(Console(), findings)
    if findings["problems"]:
        raise typer.Exit(errors.EXIT_ENVIRONMENT)


# --- options and output ---------------------------------------------------------------------


def parse_date(value: str | None) -> str:
    """Returns the partition for ``--date``; today in UTC if not given."""
    if value is None:
        from medpipe.pipeline import partition_of_today

        return partition_of_today()
    try:
        return calendar_date.fromisoformat(value).isoformat() if len(value) == 10 else _bad_date(value)
    except ValueError:
        return _bad_date(value)


def _bad_date(value: str) -> str:
    raise MedpipeError("DATE_INVALID", value=value)


def as_files(paths: list[Path] | None) -> tuple[Path, ...] | None:
    """Returns the files of a repeatable option; None where it was not given."""
    return tuple(paths) if paths else None


def parse_shard(value: str | None) -> tuple[int | None, int]:
    """Returns shard and number of shards of ``I/N``; ``(None, 1)`` if not given."""
    if value is None:
        return None, 1
    try:
        number, count = (int(part) for part in value.split("/"))
    except ValueError:
        number, count = 0, 0
    if not 1 <= number <= count:
        raise MedpipeError("SETTING_INVALID", name="--shard", reason="it has the form I/N with 1 <= I <= N")
    return number, count


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises SETTING_INVALID where ``value`` is none of ``choices``."""
    if value not in choices:
        raise MedpipeError("SETTING_INVALID", name=name, reason=f"{value!r} is none of {', '.join(choices)}")


@contextmanager
def spooled_input(paths: list[str], settings: Settings) -> Iterator[list[str]]:
    """Gives the inputs with standard input, if ``-`` is among them, written to a file for as long as the run lasts."""
    if "-" not in paths:
        yield paths
        return
    import shutil
    import tempfile

    # In the user's temporary folder, readable to the user alone (mkdtemp), and gone afterwards.
    with tempfile.TemporaryDirectory(prefix="medpipe-") as folder:
        spool = Path(folder) / "stdin"
        with spool.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield [str(spool) if path == "-" else path for path in paths]


def stderr_console() -> Console:
    """Returns the console that progress and funnel are printed on."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def progress_bar(console: Console, *, hidden: bool) -> Iterator[Progress | None]:
    """Gives a callback that shows the stages' progress on stderr; nothing where it is no terminal."""
    if hidden or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {stage: bar.add_task(stage, total=None, start=False, visible=stage == "ingest") for stage in STAGES}

        def advance(stage: str, done: int, total: int) -> None:
            bar.start_task(tasks[stage])
            bar.update(tasks[stage], completed=done, total=total or None, visible=True)

        yield advance


def print_counts(counts: dict[str, float]) -> None:
    """Prints a stage's counts as one line of JSON."""
    print(
        json.dumps({name: int(value) if float(value).is_integer() else value for name, value in sorted(counts.items())})
    )


def find_notes(
    settings: Settings, partition: str, sources: frozenset[str], *, most: int | None = None, explain: bool
) -> Iterator[Note]:
    """Returns the notes of the run, with what their relations rest on where that is asked for."""
    from medpipe.report.notes import read_notes

    notes = read_notes(settings.warehouse, partition, sources, most=most)
    if not explain:
        return notes
    from medpipe.relate.stage import Relater
    from medpipe.report.explain import explain_notes

    return explain_notes(notes, Relater.load(settings.relations, device=settings.device))


def print_notes(
    settings: Settings, partition: str, sources: frozenset[str], most: int, *, explain: bool = False
) -> None:
    """Prints the first notes of the run and says how many more there are."""
    from rich.console import Console

    from medpipe.lake import warehouse
    from medpipe.report.terminal import print_note

    console = Console()
    shown = 0
    for note in find_notes(settings, partition, sources, most=most, explain=explain):
        print_note(console, note)
        shown += 1
    if shown == most:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = warehouse.read_table(settings.warehouse, "documents", partition=partition, columns=["source"])[
            "source"
        ]
        total = pc.sum(pc.is_in(column, pa.array(sorted(sources), pa.string()))).as_py()
        if total > shown:
            console.print(
                f"… and {total - shown:,} more notes (--show N prints more; all are in the tables)", style="dim"
            )


def write_notes_page(path: Path, root: Path, partition: str, sources: frozenset[str]) -> None:
    """Writes the page of the run's notes, as many as a browser shows with ease."""
    from medpipe.report.html import write_page
    from medpipe.report.note_page import MAX_CHARS, MAX_NOTES, note_page
    from medpipe.report.notes import list_notes, read_documents

    ids = list_notes(root, partition, sources)
    notes: list[Note] = []
    size = 0
    for note in read_documents(root, partition, ids[:MAX_NOTES]):
        size += note.document["n_chars"]
        if notes and size > MAX_CHARS:
            break
        notes.append(note)
    if not notes:
        print("medpipe: no note was found, so no page was written", file=sys.stderr)
        return
    write_page(path, note_page(notes, left_out=len(ids) - len(notes)))


def print_json(outcome: dict[str, Any], settings: Settings, sources: frozenset[str], *, explain: bool = False) -> None:
    """Prints the run and its notes as one JSON object, note by note, so that memory stays flat."""
    from medpipe.report.run_schema import RUN_JSON

    head = {"schema": RUN_JSON, "warehouse": str(settings.warehouse)} | outcome
    out = sys.stdout
    out.write(json.dumps(head)[:-1] + ', "documents": [')
    for index, note in enumerate(find_notes(settings, outcome["partition"], sources, explain=explain)):
        out.write((",\n" if index else "\n") + json.dumps(note_json(note), default=lambda value: value.isoformat()))
    out.write("]}\n")
    out.flush()


def note_json(note: Note) -> dict[str, Any]:
    """Returns a note as the JSON of ``medpipe run --json``: the document's columns and its rows below them."""
    return note.document | {
        "sections": note.sections, "entities": note.entities, "relations": note.relations, "summary": note.summary,
    }  # fmt: skip


if __name__ == "__main__":
    main()
