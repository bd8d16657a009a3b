"""What an import is asked to do: a plan, from the command line or the Setup page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gsr_core.data.bundle import Bundle
from gsr_core.data.source import Roles
from gsr_core.errors import SettingError
from gsr_core.readers.registry import make_reader
from gsr_core.settings import what_is_wrong

__all__ = [
    "NAMED",
    "BackboneChoice",
    "ExtractionChoice",
    "Plan",
    "TrainingChoice",
    "corrections",
    "make_plan",
    "plan_of",
]


NAMED = 10
"""So many bad rows are named in a message."""


class BackboneChoice(BaseModel):
    """Which trained network gives the features; see `features.backbones.load_backbone`.

    Attributes:
        name: Such as `torchvision:resnet50`.
        checkpoint: Path of a state dict (or of the program itself); "" for none.
        weights: Named weights that the library knows; "" for none.
        layer: Name of the linear layer before which to cut; "" finds it.
        trust: Whether files that run code of their own may be loaded.
        arguments: Keyword arguments of an own factory.
        overrides: Preprocessing settings that differ from the model's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    checkpoint: str = ""
    weights: str = ""
    layer: str = ""
    trust: bool = False
    arguments: dict[str, str | int | float | bool] = {}
    overrides: dict[str, Any] = {}

    def call(self) -> dict[str, Any]:
        """Return the arguments of `load_backbone` and `load_network`."""
        values = self.model_dump()
        values["checkpoint"] = Path(self.checkpoint).expanduser() if self.checkpoint else None
        return values


class TrainingChoice(BaseModel):
    """Stage 1: train the network on `train` first; see `features.training`.

    Attributes:
        preset: Published settings to begin with.
        settings: Those that differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    settings: dict[str, Any] = {}


class ExtractionChoice(BaseModel):
    """How features are computed; none of it changes what they are, but for the precision.

    Attributes:
        device: `auto`, or a device's name.
        batch_size: Inputs a forward pass; halved when memory runs out.
        workers: Processes that read and prepare; None decides by the machine.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        on_bad: Whether an input that cannot be read stops the import or is left out.
        engine: Where to compute: this process, or the actors of a Ray cluster.
        address: Of the cluster; `auto` finds a running one.
        actors: Number of actors on the cluster.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 64
    workers: Annotated[int, Field(ge=0)] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    on_bad: Literal["stop", "skip"] = "stop"
    engine: Literal["local", "ray"] = "local"
    address: str = "auto"
    actors: Annotated[int, Field(ge=1)] = 2


class Plan(BaseModel):
    """Everything an import needs to know.

    Attributes:
        name: Of the bundle.
        title: Name for people; the data set's own, or the bundle's name, if "".
        reader: A key of `readers.registry.READERS`.
        settings: The reader's settings.
        roles: What differs from the reader's proposal; see `data.dataset.amend`.
        backbone: The network; None where the data are features already.
        training: How to train it first; None takes it as it is.
        extraction: How to compute.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    reader: str
    settings: dict[str, Any]
    roles: dict[str, Any] = {}
    backbone: BackboneChoice | None = None
    training: TrainingChoice | None = None
    extraction: ExtractionChoice = ExtractionChoice()


def make_plan(**values: Any) -> Plan:
    """Make a plan from what a user typed; text is read as a field's type.

    Raises:
        SettingError: If a field has a value that is not allowed, or a reader or preset is unknown.
    """
    try:
        plan = Plan.model_validate(values)
        # As the fields' own types, so that what was typed and what was clicked are one plan.
        roles = Roles.model_validate(plan.roles).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        raise SettingError(what_is_wrong(error)) from None
    reader = make_reader(plan.reader, plan.settings)
    known = TypeAdapter(type(reader)).dump_python(reader, mode="json")
    changes: dict[str, Any] = {
        "roles": roles,
        "settings": {key: known[key] for key in plan.settings},
    }
    if plan.training is not None:
        if plan.backbone is None:
            raise SettingError("training needs a network to train; name it with --backbone")
        from gsr_core.features.presets import make_training

        training = make_training(plan.training.preset, plan.training.settings).settings()
        settings = {key: training[key] for key in plan.training.settings}
        changes["training"] = TrainingChoice(preset=plan.training.preset, settings=settings)
    return plan.model_copy(update=changes)


def corrections(proposal: Roles, chosen: Roles) -> dict[str, Any]:
    """Return what makes of a reader's proposal what a user chose: `Plan.roles`.

    `amend(proposal, corrections(proposal, chosen))` is `chosen`.
    """
    before, after = proposal.model_dump(mode="json"), chosen.model_dump(mode="json")
    changes: dict[str, Any] = {}
    for name, value in after.items():
        if isinstance(value, dict):
            value = {key: each for key, each in value.items() if each != before[name][key]}
            if value:
                changes[name] = value
        elif value != before[name]:
            changes[name] = value
    if "attributes" in changes:  # Else they would become the columns of the groups.
        changes.setdefault("groups", {})["columns"] = after["groups"]["columns"]
    return changes


def plan_of(bundle: Bundle) -> Plan:
    """Return the plan that a bundle was made by.

    Raises:
        SettingError: If the bundle was not made by one.
    """
    recipe = bundle.manifest.recipe or {}
    if "plan" not in recipe:
        raise SettingError(
            f"bundle '{bundle.name}' does not say how it was imported, so its inputs cannot be "
            "read again; import the data once more with 'gsr import'"
        )
    return Plan.model_validate(recipe["plan"])
