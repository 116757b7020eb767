"""What admission finds about a study; apart from its checks, so that reports need no network."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["warn", "reject"]

CheckName = Literal[
    "modality", "shear", "spacing", "field_of_view", "orientation", "flip", "slices", "empty",
    "units", "scale", "inverted", "padding", "spikes", "saturation", "noise", "texture", "likeness",
    "fingerprint", "volume", "training_case",
]  # fmt: skip


class Finding(BaseModel):
    """One way in which a study differs from what the model was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: CheckName = Field(description="Which check; also the name of its setting.")
    verdict: Verdict = Field(description="Whether it only warns.")
    found: str = Field(description="What was found, with the number and what was expected.")
    remedy: str = Field(description="What the user can do about it, as a sentence.")

    def __str__(self) -> str:
        return f"{self.check}: {self.found}. {self.remedy}"
