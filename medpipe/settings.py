"""One typed settings object: defaults, then ``medpipe.toml``, then ``MEDPIPE_*`` variables, then flags.

``MEDPIPE_CONFIG`` names another file than ``./medpipe.toml``. Imports no torch and no pyarrow, so that a DAG
file may read it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from medpipe.errors import MedpipeError

PROFILES = ("fast", "standard", "accurate")
STAGES = ("ingest", "tag", "relate", "summarize")


class Settings(BaseSettings):
    """Every knob of a run. Field names are those of ``medpipe.toml`` and, in capitals, of ``MEDPIPE_*``."""

    model_config = SettingsConfigDict(env_prefix="MEDPIPE_", extra="forbid", frozen=True)

    warehouse: Path = Field(Path("medpipe-out"), description="Where the tables lie.")
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
    token_budget: int = Field(8192, gt=0, description="Padded tokens of a batch.")

    landing: str = Field(
        "landing/{date}", description="Folder in which a night finds its sources; {date} is the partition."
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
    cpu_stages: tuple[Literal["ingest", "tag", "relate", "summarize"], ...] = Field(
        (), description="Stages that go to CPU workers (queue `cpu`, default pool) and not to the pool and queue `gpu`."
    )

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
