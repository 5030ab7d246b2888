"""One typed settings object: defaults, then ``medpipe.toml``, then ``MEDPIPE_*`` variables, then flags.

``MEDPIPE_CONFIG`` names another file than ``./medpipe.toml``. Imports no torch and no pyarrow, so that a DAG
file may read it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from medpipe.errors import MedpipeError
from medpipe.storage import as_location

PROFILES = ("fast", "standard", "accurate")
STAGES = ("ingest", "tag", "relate", "summarize")


# A path, or the URL of a folder in an object store.
Location = Annotated[Path, PlainValidator(as_location)]


class Settings(BaseSettings):
    """Every knob of a run. Field names are those of ``medpipe.toml`` and, in capitals, of ``MEDPIPE_*``."""

    model_config = SettingsConfigDict(env_prefix="MEDPIPE_", extra="forbid", frozen=True)

    warehouse: Location = Field(
        Path("medpipe-out"), description="Where the tables lie: a folder, or s3://, gs:// or abfs:// and a folder."
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")

    profile: Literal["fast", "standard", "accurate"] = Field(
        "standard", description="fast: tagger in bfloat16, summaries extracted; accurate: the larger tagger beside it."
    )

    tagger: str = Field("tagger", description="Name of a shipped model, or a folder.")
    relations: str = Field("relations", description="Name of a shipped model, or a folder.")
    summarizer: str = Field("summarizer", description="Name of a shipped model, or a folder.")
    min_relation_score: float | None = Field(None, ge=0, le=1, description="None: the model's own threshold.")

    terminology: tuple[Path, ...] | Path = Field(
        (), description="Files with codes for mentions (code, system, term); ICD-10-CM is used if it is installed."
    )

    max_note_chars: int = Field(5_000_000, gt=0, description="A longer note goes to quarantine.")
    max_file_bytes: int = Field(
        256 << 20, gt=0, description="A larger file that has to be read whole (JSON, XML, PDF) goes to quarantine."
    )
    languages: tuple[str, ...] = Field(
        ("en",), description="Languages that the models know (BCP 47); notes in others are kept and not tagged."
    )
    chunk_documents: int = Field(512, gt=0, description="Documents that a stage holds at a time.")
    chunk_chars: int = Field(4_000_000, gt=0, description="Characters of text that a stage holds at a time.")
    token_budget: int | None = Field(
        None, gt=0, description="Padded tokens of a batch; None: by the free memory of the GPU, on a CPU 8192."
    )
    device_wait_seconds: float = Field(600, ge=0, description="How long a task waits for a GPU that another uses.")

    landing: str = Field(
        "landing/{date}", description="Folder (or URL) in which a night finds its sources; {date} is the partition."
    )
    storage_connection: str | None = Field(
        None, description="Connection of Airflow with the credentials of a store; none: the environment's."
    )
    format: str = Field("auto", description="Name of a reader, for sources that are not what they look like.")
    mapping: Path | None = Field(None, description="TOML file that says which columns of tables with notes are what.")
    text_column: str | None = Field(None, description="Column of the notes' text; wins over the mapping file.")
    id_column: str | None = Field(None, description="Column that names a note; wins over the mapping file.")
    patient_column: str | None = Field(None, description="Column of the patient's id; wins over the mapping file.")
    encounter_column: str | None = Field(None, description="Column of the encounter's id; wins over the mapping file.")
    date_column: str | None = Field(None, description="Column of the note's date; wins over the mapping file.")
    type_column: str | None = Field(None, description="Column of the note's type; wins over the mapping file.")
    shards: int = Field(16, gt=0, le=1024, description="Into how many shards a night is cut at most.")
    shard_bytes: int = Field(8 << 20, gt=0, description="A night is cut into no more shards than these bytes fill.")
    reuse_partitions: int = Field(
        31, ge=0, description="In how many partitions, the newest first, finished notes are looked for; 0: in none."
    )
    quality_gate: bool = Field(
        True, description="Hold a partition back that is not like those before; contracts are checked anyhow."
    )
    quality_partitions: int = Field(14, gt=0, description="How many partitions before are compared.")
    quality_min_partitions: int = Field(5, gt=0, description="With fewer earlier partitions, drift is not judged.")
    quality_min_notes: int = Field(
        200, gt=0, description="A partition of fewer notes is not judged, nor are others judged by it."
    )
    quality_min_mentions: int = Field(
        200, gt=0, description="A kind of entity or relation is judged from so many of them on, expected or there."
    )
    quality_deviations: float = Field(
        4.0, ge=0, description="Standard deviations of earlier partitions within which a measure is as expected."
    )
    quality_notes_factor: float = Field(
        2.0, ge=1, description="How many times more notes than the largest, or fewer than the smallest, are expected."
    )
    quality_rate_change: float = Field(
        0.4, ge=0, description="Change of entities or relations per 1,000 tokens that is expected, as a share."
    )
    quality_share_change: float = Field(0.2, ge=0, le=1, description="Change of the share of empty notes, likewise.")
    quality_quarantine_change: float = Field(0.1, ge=0, le=1, description="Rise of the share in quarantine, likewise.")
    quality_max_psi: float = Field(
        0.25, ge=0, description="Population stability index of scores up to which they are as expected."
    )
    cpu_stages: tuple[Literal["ingest", "tag", "relate", "summarize"], ...] = Field(
        (), description="Stages that go to CPU workers (queue `cpu`, default pool) and not to the pool and queue `gpu`."
    )
    retry_minutes: float = Field(1.0, ge=0, description="How long Airflow waits before it tries a failed task again.")
    nightly_cron: str = Field("0 2 * * *", description="When a night begins (UTC); it works on the day before.")
    nightly_deadline_hours: float = Field(
        6.0, ge=0, description="A night that is not done so long after it was queued is told of; 0: it is not."
    )
    alert_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where a failed or late run is told of: JSON with a `text`, as Slack and Mattermost take it.",
    )

    maintenance_cron: str = Field("0 13 * * 0", description="When maintenance runs (UTC); empty: by hand only.")
    work_days: float = Field(
        7.0, ge=0, description="Work areas and temporary files that nobody touched for so many days are removed."
    )
    maintenance_partitions: int = Field(
        7, gt=0, le=365, description="How many partitions a maintenance does again at most, the newest first."
    )
    max_attempts: int = Field(3, gt=0, description="A document that a stage refused so many times is not tried again.")

    corrections: Path | None = Field(None, description="Corrected notes that `medpipe_retrain` learns from.")
    hold: tuple[Path, ...] = Field(
        (), description="Held-out data of the old labels that a retrained model must not lose."
    )
    registry: Path = Field(Path("models"), description="Where retrained models lie, a folder a version, and `current`.")
    retrain_cron: str = Field("", description="When corrections are learned from (UTC); empty: by hand only.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sets the order: flags, variables, file."""
        path = Path(os.environ.get("MEDPIPE_CONFIG", "medpipe.toml"))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)


def load_settings(**flags: Any) -> Settings:
    """Returns the settings; ``flags`` that are ``None`` were not given.

    Raises:
        MedpipeError: SETTING_INVALID, with the name of the first wrong one.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "medpipe.toml"
        raise MedpipeError("SETTING_INVALID", name=name, reason=first["msg"]) from error
    except ValueError as error:  # TOML that does not parse
        raise MedpipeError("SETTING_INVALID", name="medpipe.toml", reason=error) from error
