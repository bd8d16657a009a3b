"""Readers by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pkgutil import resolve_name
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gsr_core.errors import SettingError
from gsr_core.readers.base import Reader
from gsr_core.settings import check_known, suggestion, what_is_wrong

__all__ = ["READERS", "describe_readers", "make_reader", "reader_class"]

READERS = {
    "images": "gsr_core.readers.images:Images",
    "imagefolder": "gsr_core.readers.imagefolder:ImageFolder",
    "texts": "gsr_core.readers.texts:TextTable",
    "table": "gsr_core.readers.tables:Table",
    "embeddings": "gsr_core.readers.embeddings:Embeddings",
    "npz": "gsr_core.readers.npz:Npz",
    "waterbirds": "gsr_core.readers.waterbirds:Waterbirds",
    "celeba": "gsr_core.readers.celeba:CelebA",
    "metashift": "gsr_core.readers.metashift:MetaShift",
    "multinli": "gsr_core.readers.multinli:MultiNLI",
    "civilcomments": "gsr_core.readers.civilcomments:CivilComments",
    "wilds": "gsr_core.readers.wilds:Wilds",
    "huggingface": "gsr_core.readers.huggingface:HuggingFace",
    "coloured-mnist": "gsr_core.readers.controlled:ColouredMNIST",
    "coloured-mnist-10": "gsr_core.readers.controlled:ColouredMNIST10",
    "coloured-mnist-spare": "gsr_core.readers.controlled:ColouredMNISTSpare",
    "corrupted-cifar10": "gsr_core.readers.corrupted:CorruptedCIFAR10",
    "dominoes": "gsr_core.readers.dominoes:Dominoes",
    "synthetic": "gsr_core.readers.synthetic:Synthetic2D",
    "patches": "gsr_core.readers.synthetic:Patches",
    "coloured-digits": "gsr_core.readers.digits:ColouredDigits",
}
"""Where each reader is; imported when it is asked for, so that listing them costs nothing."""


def reader_class(name: str) -> type[Reader]:
    """Return a reader's class.

    Raises:
        SettingError: If there is none of that name.
    """
    if name not in READERS:
        raise SettingError(
            f"there is no reader '{name}'{suggestion(name, READERS)}; readers are "
            f"{', '.join(READERS)}"
        )
    return resolve_name(READERS[name])


def make_reader(name: str, values: Mapping[str, Any] | None = None) -> Reader:
    """Make a reader from its name and settings; text is read as the setting's type.

    Raises:
        SettingError: If the reader or a setting is unknown, or a value is not allowed.
    """
    reader = reader_class(name)
    check_known(f"reader {name}", values or {}, [each.name for each in fields(reader)])
    try:
        return reader(**(values or {}))
    except ValidationError as error:
        raise SettingError(f"{name}: {what_is_wrong(error)}") from None


def describe_readers() -> list[dict[str, Any]]:
    """Return every reader's name, title, summary, what its path is, extra, and settings.

    A setting has `name`, `type`, `default` and `help`.
    """
    return [_describe(reader_class(name)) for name in READERS]


def _describe(reader: type[Reader]) -> dict[str, Any]:
    fields = TypeAdapter(reader).json_schema()["properties"]
    return {
        "name": reader.name,
        "title": reader.title,
        "summary": reader.summary,
        "path": reader.path_help,
        "extra": reader.extra,
        "settings": [
            {
                "name": name,
                "type": schema.get("type", "string"),
                "allowed": schema.get("enum"),
                "default": schema.get("default"),
                "help": schema.get("description", ""),
            }
            for name, schema in fields.items()
            if name != "path"
        ],
    }
