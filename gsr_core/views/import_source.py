"""The first step of an import: where the data are, and what a reader makes of them."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from gsr_core.data.pixels import thumbnail
from gsr_core.data.source import Source
from gsr_core.errors import GsrError
from gsr_core.ingest.plan import Plan
from gsr_core.ingest.read import preview
from gsr_core.readers.registry import describe_readers, make_reader
from gsr_core.views.charts import plain, show_error, show_rows
from gsr_core.views.session import bundle_names, workspace

__all__ = [
    "FAILURES",
    "Reading",
    "choose_source",
    "first_rows",
    "forget_source",
    "in_rows",
    "look",
]

FAILURES = (GsrError, OSError, RuntimeError, ValueError, MemoryError)
"""What wrong files raise; the page shows it as a sentence and goes on."""

_STATE = "import seen"
_SINGLE_FILE = {
    "npz": ["npz"],
    "texts": ["csv", "tsv", "parquet", "jsonl"],
    "table": ["csv", "tsv", "parquet", "jsonl"],
    "embeddings": ["parquet"],
}
"""Readers of a single file, which may also be uploaded, and the endings of that file."""
_PICTURES = 6


@dataclass(frozen=True)
class Reading:
    """What a reader gave when the user last looked at the data.

    Attributes:
        reader: Name of the reader.
        settings: Settings of the reader, the path among them.
        number: Changes with every look, so that a file that changed is read again.
        source: The source that the reader returned. Not to be changed.
    """

    reader: str
    settings: dict[str, Any]
    number: int
    source: Source

    @property
    def key(self) -> str:
        """Identity of the widgets that correct the proposal of this source."""
        content = json.dumps([self.reader, self.settings], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """A free name for the bundle."""
        path = Path(str(self.settings.get("path", "")))
        stem = path.parent.name if path.stem in ("metadata", "data") else path.stem
        base = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._")[:60] or self.reader
        taken = set(bundle_names())
        return next(
            name
            for number in range(1, len(taken) + 3)
            if (name := base if number == 1 else f"{base}-{number}") not in taken
        )


def choose_source() -> Reading | None:
    """Draw the choice of reader, path and settings; return the reading once there is one."""
    known = {each["name"]: each for each in _readers()}
    left, right = st.columns([2, 3])
    with left:
        # A list that is not empty always has a choice, but the signature does not say so.
        name = str(
            st.selectbox(
                "What do you have?",
                list(known),
                format_func=lambda each: known[each]["title"],
                key="import reader",
                persist_state="session",
            )
        )
    reader = known[name]
    settings: dict[str, Any] = {}
    with right:
        if reader["path"].startswith("nothing"):
            st.text_input("Path", value="No file is needed.", disabled=True, key="import no path")
        else:
            path = st.text_input(
                "Path on the machine that runs this dashboard",
                placeholder=reader["path"],
                help=f"{reader['path'][0].upper()}{reader['path'][1:]}.",
                key=f"import path {name}",
                persist_state="session",
            )
            if path.strip():
                settings["path"] = path.strip()
    needs = f" Needs `pip install 'gsr-core[{reader['extra']}]'`." if reader["extra"] else ""
    st.caption(f"{reader['summary']}{needs}")
    if name in _SINGLE_FILE:
        with st.expander("Or upload the file"):
            file = st.file_uploader(
                "The file",
                type=_SINGLE_FILE[name],
                key=f"import upload {name}",
                label_visibility="collapsed",
            )
            if file is not None:
                settings["path"] = str(_store_upload(file.name, file.getvalue()))
    if reader["settings"]:
        with st.expander("Settings of this reader"):
            settings |= _settings(name, reader["settings"])
    missing = "path" not in settings and not reader["path"].startswith("nothing")
    # Never disabled: a path that is still being typed counts only once the field is left.
    if st.button("Look at the data", type="primary", key="import look"):
        if missing:
            st.session_state.pop(_STATE, None)
            show_error(f"Where are the data? Give {reader['path']}.")
            return None
        st.session_state[_STATE] = (name, settings, time.time_ns())
    if _STATE not in st.session_state:
        return None
    name, settings, number = st.session_state[_STATE]
    try:
        return Reading(name, settings, number, _source(name, json.dumps(settings), number))
    except FAILURES as error:
        show_error(error)
        return None


def forget_source() -> None:
    """Begin with an empty form the next time."""
    st.session_state.pop(_STATE, None)


def look(reading: Reading, plan: Plan) -> dict[str, Any]:
    """Return `ingest.preview` of a plan for a reading; computed once.

    Raises:
        GsrError: If columns do not suit their roles.
    """
    # Groups and splits depend on these alone; a new name or network computes nothing again.
    roles = json.dumps(plan.roles, sort_keys=True)
    return _preview(reading.key, reading.number, roles, plan, reading.source)


def first_rows(reading: Reading) -> None:
    """Draw the first rows of the table, and images if there are any."""
    table = reading.source.table
    show_rows(table.head(5))
    st.caption(f"The first of {len(table):,} rows · {plain(reading.source.origin)}")
    if reading.source.inputs.modality == "image":
        with st.container(horizontal=True, gap="xsmall", key="import pictures"):
            for name, encoded in _pictures(reading.key, reading.number, reading.source):
                if encoded is None:
                    st.caption(f"{plain(name)} cannot be read")
                else:
                    st.image(encoded, width=76, alt=name)


def in_rows(count: int, width: int) -> list[DeltaGenerator]:
    """Return `count` columns, `width` in a row."""
    return [column for _ in range(0, count, width) for column in st.columns(width)][:count]


def _settings(reader: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw a reader's settings; return those that differ from their defaults."""
    values = {}
    for column, field in zip(in_rows(len(fields), 3), fields, strict=True):
        with column:
            value = _setting(f"import {reader} {field['name']}", field)
        if value != field["default"]:
            values[field["name"]] = value
    return values


def _setting(key: str, field: dict[str, Any]) -> Any:
    label, default = field["name"].replace("_", " "), field["default"]
    common: dict[str, Any] = {"help": field["help"], "key": key, "persist_state": "session"}
    if field["allowed"]:
        place = field["allowed"].index(default)
        return st.selectbox(label, field["allowed"], index=place, **common)
    if field["type"] == "boolean":
        return st.toggle(label, value=default, **common)
    if field["type"] == "integer":
        return int(st.number_input(label, value=default, step=1, **common))
    if field["type"] == "number":
        return float(st.number_input(label, value=default, format="%g", **common))
    if field["type"] == "array":
        text = st.text_input(label, placeholder="names, separated by commas", **common) or ""
        return [part.strip() for part in text.split(",") if part.strip()]
    return (st.text_input(label, value=default, **common) or "").strip()


def _store_upload(name: str, content: bytes) -> Path:
    """Store an upload in the workspace; the import may read it after the browser has gone."""
    folder = workspace().root / "uploads" / hashlib.sha256(content).hexdigest()[:16]
    file = folder / Path(name).name
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return file


@st.cache_resource(show_spinner=False)
def _readers() -> list[dict[str, Any]]:
    return describe_readers()


@st.cache_resource(max_entries=2, show_spinner="Reading the table")
def _source(reader: str, settings: str, number: int) -> Source:
    return make_reader(reader, json.loads(settings)).read()


@st.cache_resource(max_entries=64, show_spinner="Making groups and splits")
def _preview(key: str, number: int, roles: str, _plan: Plan, _source: Source) -> dict[str, Any]:
    return preview(_plan, _source)


@st.cache_resource(max_entries=4, show_spinner=False)
def _pictures(key: str, number: int, _source: Source) -> list[tuple[str, bytes | None]]:
    pictures = []
    for row in range(min(_PICTURES, len(_source.inputs))):
        try:
            encoded = thumbnail(_source.inputs.load(row))
        except FAILURES:
            encoded = None
        pictures.append((_source.inputs.name(row), encoded))
    return pictures
