"""What a plan is asked for on the command line."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import ConfigError
from pipeline.manifest import ReadingConfig

BYTES_PER_GB = 1e9

_UNITS_GB = {
    **{"": 1.0, "g": 1.0, "gb": 1.0, "gib": 2**30 / 1e9},
    **{"m": 1e-3, "mb": 1e-3, "mib": 2**20 / 1e9, "t": 1e3, "tb": 1e3, "tib": 2**40 / 1e9},
}


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
    measure: bool = Field(default=True, description="Run a few steps to learn the speed.")
    replace: bool = Field(default=False, description="Set aside a configuration that is there.")


def parse_memory(text: str) -> float:
    """Return an amount of memory such as `8GB`, `512MB` or `8` in GB (10^9 bytes).

    Raises:
        ConfigError: If it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS_GB or float(match[1]) == 0:
        raise ConfigError("--memory", f"{text!r} is no amount of memory", "Write it as 8GB.")
    return float(match[1]) * _UNITS_GB[match[2]]
