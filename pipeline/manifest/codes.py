"""What a label stands for, in the codes of a terminology such as SNOMED CT.

DICOM segmentations say in codes what each segment is. A manifest gives them by label name; a model
carries them from there.

Source: DICOM PS3.3 8.8 (Basic Code Sequence Macro: the lengths), C.8.20.4 (Segment Description
Macro); PS3.16 CID 7150 (categories), CID 7151 (types), CID 244 (laterality).
"""

from pydantic import BaseModel, ConfigDict, Field, model_validator

_SHORT = r"^[^\\\s](?:[^\\\r\n]{0,14}[^\\\s])?$"
_LONG = r"^[^\\\s](?:[^\\\r\n]{0,62}[^\\\s])?$"


class Code(BaseModel):
    """A concept of a terminology; in YAML also written `[value, scheme, meaning]`.

    Attributes:
        value: What the terminology calls it, such as `"10200004"`; at most 16 characters.
        scheme: The terminology's designator in DICOM, such as `"SCT"` for SNOMED CT.
        meaning: For people to read, such as `"Liver"`; at most 64 characters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str = Field(pattern=_SHORT, description="What the terminology calls the concept.")
    scheme: str = Field(pattern=_SHORT, description="Its designator in DICOM, such as SCT.")
    meaning: str = Field(pattern=_LONG, description="The concept, for people to read.")

    @model_validator(mode="before")
    @classmethod
    def _from_three_parts(cls, given: object) -> object:
        if isinstance(given, list | tuple):
            if len(given) != 3:
                raise ValueError("should be [value, scheme, meaning]")
            given = dict(zip(("value", "scheme", "meaning"), given, strict=True))
        # YAML reads the digits of a SNOMED CT code as a number; a code is text.
        if isinstance(given, dict) and type(given.get("value")) is int:
            given = given | {"value": str(given["value"])}
        return given


ANATOMICAL_STRUCTURE = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")


class SegmentCode(BaseModel):
    """What a label stands for.

    Attributes:
        category: The kind of thing that it is, of CID 7150.
        type: What it is, of CID 7151 where one fits.
        type_modifier: Which of several, such as left or right.
        region: Where in the body a thing lies that is no part of it, such as a lesion.
        region_modifier: Which side of that region.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    category: Code = Field(default=ANATOMICAL_STRUCTURE, description="The kind of thing.")
    type: Code = Field(description="What it is.")
    type_modifier: Code | None = Field(default=None, description="Such as left or right.")
    region: Code | None = Field(default=None, description="Where in the body it lies.")
    region_modifier: Code | None = Field(default=None, description="Which side of the region.")

    @model_validator(mode="after")
    def _a_side_is_of_something(self) -> "SegmentCode":
        if self.region_modifier is not None and self.region is None:
            raise ValueError("region_modifier needs a region")
        return self
