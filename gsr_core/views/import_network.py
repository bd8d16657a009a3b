"""The third step of an import: the trained network that computes the features.

The module is long because it lists how the form asks for each kind of network.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import streamlit as st
from pydantic import TypeAdapter

from gsr_core.ingest.plan import BackboneChoice, ExtractionChoice, TrainingChoice
from gsr_core.views.import_source import in_rows
from gsr_core.views.session import devices

__all__ = ["KINDS", "NeedsTrust", "choose_extraction", "choose_network", "choose_training"]


class NeedsTrust(Exception):
    """The network runs code of its own, and the user has not ticked that it may."""


@dataclass(frozen=True)
class _Kind:
    """How the form asks for one kind of network.

    Attributes:
        line: Description of the kind.
        modalities: Inputs that it takes.
        label: Label of the field for its name.
        hint: Example of a name.
        default: Name at first.
        file: Whether the name is a file that holds the whole network.
        runs_code: Whether it is loaded only with trust.
    """

    line: str
    modalities: tuple[str, ...]
    label: str
    hint: str = ""
    default: str = ""
    file: bool = False
    runs_code: bool = False


_BOTH = ("image", "text")
KINDS = {
    "torchvision": _Kind(
        "A classification model of torchvision, with published weights or your own",
        ("image",),
        "Model",
        default="resnet50",
    ),
    "timm": _Kind(
        "A model of timm, with published weights or your own",
        ("image",),
        "Model",
        "vit_small_patch16_224",
    ),
    "sentence": _Kind(
        "A sentence-transformers model",
        ("text",),
        "Directory, or name on the Hugging Face hub",
        default="all-MiniLM-L6-v2",
    ),
    "hf": _Kind(
        "A Hugging Face model",
        _BOTH,
        "Directory, or name on the hub",
        "google/vit-base-patch16-224",
    ),
    "open_clip": _Kind("The image tower of an open_clip model", ("image",), "Model", "ViT-B-32"),
    "own": _Kind(
        "Your own network: a function that makes it, and a state dict",
        _BOTH,
        "Function",
        "package.module:factory",
        runs_code=True,
    ),
    "torchscript": _Kind(
        "A TorchScript program", _BOTH, "File", "/models/net.pt", file=True, runs_code=True
    ),
    "export": _Kind(
        "A program of torch.export", _BOTH, "File", "/models/net.pt2", file=True, runs_code=True
    ),
    "onnx": _Kind("An ONNX graph", _BOTH, "File", "/models/net.onnx", file=True),
    "pickle": _Kind(
        "A whole network as torch.save wrote it",
        _BOTH,
        "File",
        "/models/net.pth",
        file=True,
        runs_code=True,
    ),
    "simconv1": _Kind("SimConv-1, a small network for small images", ("image",), ""),
}
"""Kinds by what stands before the colon of a backbone's name."""

_KEY = "import network"


def choose_network(modality: Literal["image", "text"]) -> BackboneChoice | None:
    """Draw the choice of a network; return it, or None while its name is missing.

    Raises:
        NeedsTrust: If it runs code of its own and is not trusted yet.
    """
    names = [name for name, kind in KINDS.items() if modality in kind.modalities]
    left, right = st.columns([2, 3])
    with left:
        kind = st.selectbox(
            "Kind of network",
            names,
            format_func=lambda each: KINDS[each].line,
            key=f"{_KEY} kind {modality}",
            persist_state="session",
        )
    chosen = KINDS[kind]
    with right:
        name = _name(kind, chosen)
    values: dict[str, Any] = {"weights": "", "checkpoint": ""}
    if not chosen.file and kind not in ("sentence", "hf"):
        values |= _weights(kind, name)
    trust = False
    if chosen.runs_code:
        trust = st.checkbox(
            "I trust this file",
            help="It runs code of its own, as you, on the machine of this dashboard.",
            key=f"{_KEY} trust {kind}",
            persist_state="session",
        )
    with st.expander("Layer, preprocessing and other details"):
        values["layer"] = _text("Layer before which to cut", f"{_KEY} layer", "automatic")
        overrides = _overrides(modality)
        values["arguments"] = _arguments(kind) if kind in ("own", "timm") else {}
        if not chosen.runs_code:
            trust = st.checkbox(
                "I trust this file",
                help="Needed only for a pickle that is more than a state dict, or a hub model with "
                "code of its own: it runs that code, as you, on the machine of this dashboard.",
                key=f"{_KEY} trust details",
                persist_state="session",
            )
    if modality == "text" and (chosen.file or kind == "own"):
        overrides["modality"] = "text"
    if not name and kind != "simconv1":
        return None
    if chosen.runs_code and not trust:
        raise NeedsTrust
    return BackboneChoice(
        name=kind if kind == "simconv1" else f"{kind}:{name}",
        trust=trust,
        overrides=overrides,
        **values,
    )


def choose_training() -> TrainingChoice | None:
    """Draw whether and how to train the network first; return that, or None."""
    from gsr_core.features.presets import PRESETS, Training

    train = st.toggle(
        "Train it on the train rows first",
        help="If the network has not learnt these classes: plain ERM, as stage 1 of the papers.",
        key=f"{_KEY} train",
        persist_state="session",
    )
    if not train:
        return None
    preset = st.selectbox(
        "Start from the settings of",
        list(PRESETS),
        format_func=lambda each: PRESETS[each].title,
        key=f"{_KEY} preset",
        persist_state="session",
    )
    st.caption(PRESETS[preset].note)
    usual = PRESETS[preset].training.settings()
    fields = TypeAdapter(Training).json_schema()["properties"]
    values: dict[str, Any] = {}
    names = ["epochs", "lr", "batch_size", "weight_decay", "optimiser", "augment"]
    for column, field in zip(in_rows(len(names), 3), names, strict=True):
        with column:
            values[field] = _field(f"{_KEY} {preset} {field}", field, fields[field], usual[field])
    changed = {key: value for key, value in values.items() if value != usual[key]}
    return TrainingChoice(preset=preset, settings=changed)


def choose_extraction() -> ExtractionChoice:
    """Draw how to compute the features; return the choice."""
    usual = ExtractionChoice()
    first, second, third = st.columns(3)
    with first:
        device = st.selectbox("Device", devices(), key=f"{_KEY} device", persist_state="session")
        bad = st.selectbox(
            "An input that cannot be read",
            ["stop", "skip"],
            format_func=lambda each: {
                "stop": "stops the import",
                "skip": "is left out, and listed",
            }[each],
            key=f"{_KEY} bad",
            persist_state="session",
        )
    with second:
        batch = st.number_input(
            "Batch size",
            1,
            65_536,
            usual.batch_size,
            help="Inputs in a forward pass; halved automatically when memory runs out.",
            key=f"{_KEY} batch",
            persist_state="session",
        )
        workers = st.number_input(
            "Workers",
            0,
            256,
            None,
            placeholder="automatic",
            help="Processes that read and prepare inputs.",
            key=f"{_KEY} workers",
            persist_state="session",
        )
    with third:
        precision = st.selectbox(
            "Precision",
            ["auto", "float32", "bfloat16", "float16"],
            key=f"{_KEY} precision",
            persist_state="session",
        )
        engine = st.selectbox(
            "Where",
            ["local", "ray"],
            format_func=lambda each: {"local": "this machine", "ray": "a Ray cluster"}[each],
            key=f"{_KEY} engine",
            persist_state="session",
        )
    more: dict[str, Any] = {}
    if engine == "ray":
        left, right = st.columns(2)
        with left:
            more["address"] = (
                _text("Address of the cluster", f"{_KEY} address", "auto") or usual.address
            )
        with right:
            more["actors"] = int(
                st.number_input(
                    "Actors", 1, 1024, usual.actors, key=f"{_KEY} actors", persist_state="session"
                )
            )
    return ExtractionChoice.model_validate(
        {
            "device": device,
            "batch_size": batch,
            "workers": workers,
            "precision": precision,
            "on_bad": bad,
            "engine": engine,
            **more,
        }
    )


def _name(kind: str, chosen: _Kind) -> str:
    if kind == "simconv1":
        return ""
    if kind == "torchvision":
        models = _torchvision_models()
        return st.selectbox(
            chosen.label,
            models,
            index=models.index(chosen.default),
            key=f"{_KEY} name torchvision",
            persist_state="session",
        )
    return st.text_input(
        chosen.label,
        value=chosen.default,
        placeholder=chosen.hint,
        key=f"{_KEY} name {kind}",
        persist_state="session",
    ).strip()


def _weights(kind: str, name: str) -> dict[str, str]:
    """Draw where the weights come from: a file, or published ones."""
    published = kind in ("torchvision", "timm", "open_clip")
    left, right = st.columns([2, 3])
    weights = ""
    with left:
        source = "file"
        if published:
            source = st.segmented_control(
                "Weights",
                ["published", "file"],
                default="published",
                format_func=lambda each: {"published": "published", "file": "my own file"}[each],
                required=True,
                key=f"{_KEY} weights of {kind}",
                persist_state="session",
            )
    if source == "file":
        with right if published else left:
            return {
                "checkpoint": _text(
                    "State dict (.pt, .pth, .safetensors)",
                    f"{_KEY} checkpoint {kind}",
                    "/models/trained.pt",
                )
            }
    with right:
        if kind == "torchvision":
            options = ["DEFAULT", *_torchvision_weights(name)]
            weights = st.selectbox(
                "Which",
                options,
                help="Downloaded once and kept; DEFAULT is torchvision's own choice.",
                key=f"{_KEY} weights {name}",
                persist_state="session",
            )
        else:
            weights = _text("Which", f"{_KEY} weights {kind}", "DEFAULT") or "DEFAULT"
    return {"weights": weights}


def _overrides(modality: str) -> dict[str, Any]:
    """Draw the settings of preprocessing; return those that differ from the model's own."""
    preprocessing = import_module("gsr_core.features.preprocessing")
    model = {
        "image": preprocessing.ImagePreprocessing,
        "text": preprocessing.TextPreprocessing,
    }[modality]
    fields = model.model_json_schema()["properties"]
    st.caption("Preprocessing is the model's own, except for what you set here.")
    values: dict[str, Any] = {}
    names = [name for name in fields if name not in ("modality", "trust")]
    for column, name in zip(in_rows(len(names), 3), names, strict=True):
        label, key = name.replace("_", " ").capitalize(), f"{_KEY} {modality} {name}"
        with column:
            if "enum" in fields[name]:
                value = st.selectbox(
                    label,
                    fields[name]["enum"],
                    index=None,
                    placeholder="the model's own",
                    key=key,
                    persist_state="session",
                )
            else:
                value = _text(label, key, "the model's own")
        if value:
            values[name] = value
    return values


def _arguments(kind: str) -> dict[str, str | int | float | bool]:
    text = st.text_area(
        "Arguments of the function" if kind == "own" else "Arguments of timm's create_model",
        placeholder="name=value, one on each line",
        height=80,
        key=f"{_KEY} arguments {kind}",
        persist_state="session",
    )
    pairs = [line.partition("=") for line in text.splitlines() if "=" in line]
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip()}


def _field(key: str, name: str, schema: dict[str, Any], default: Any) -> Any:
    """Draw one setting of the training; its widget follows from its type."""
    common: dict[str, Any] = {
        "help": schema.get("description"),
        "key": key,
        "persist_state": "session",
    }
    label = {"lr": "Learning rate"}.get(name, name.replace("_", " ").capitalize())
    if "enum" in schema:
        place = schema["enum"].index(default)
        return st.selectbox(label, schema["enum"], index=place, **common)
    if schema["type"] == "integer":
        low, high = schema.get("minimum"), schema.get("maximum")
        return int(st.number_input(label, low, high, default, **common))
    return float(st.number_input(label, value=float(default), format="%g", min_value=0.0, **common))


def _text(label: str, key: str, placeholder: str) -> str:
    return st.text_input(label, placeholder=placeholder, key=key, persist_state="session").strip()


@st.cache_resource(show_spinner=False)
def _torchvision_models() -> list[str]:
    models = import_module("torchvision.models")
    return models.list_models(module=models)


@st.cache_resource(show_spinner=False)
def _torchvision_weights(name: str) -> list[str]:
    weights = import_module("torchvision.models").get_model_weights(name)
    return [each.name for each in weights]
