"""What a plan is asked for on the command line."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.manifest import ReadingConfig

BYTES_PER_GB = 1e9


class PlanConfig(BaseModel):
    """What to plan for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Path = Field(description="The data set.")
    out: Path = Field(description="The configuration to write.")
    reading: ReadingConfig = ReadingConfig()
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    memory_gb: float | None = Field(
        default=None, gt=0, description="Memory of the device; that of the one at hand if not set."
    )
    minutes: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Budget; a rule if not set."
    )
    measure: bool = Field(default=True, description="Time a few steps, and try what is in doubt.")
    replace: bool = Field(default=False, description="Set aside a configuration that is there.")
