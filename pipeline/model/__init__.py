"""A trained model: its description, its members' networks, and the folder that holds them."""

from pipeline.model.description import ChannelDescription, ModelDescription, metadata
from pipeline.model.folder import (
    Model,
    copy_model,
    hash_model,
    load_model,
    named_weights,
    read_description,
    save_description,
    save_model,
    unhashed_parts,
)

__all__ = [
    "ChannelDescription",
    "Model",
    "ModelDescription",
    "copy_model",
    "hash_model",
    "load_model",
    "metadata",
    "named_weights",
    "read_description",
    "save_description",
    "save_model",
    "unhashed_parts",
]
