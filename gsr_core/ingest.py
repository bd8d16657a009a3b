"""From a user's files to a bundle, in one call: read, define, extract, write.

A `Plan` says all of it in plain values, so that the command line, the dashboard's job and a
stored bundle mean the same. The order is such that whatever can be wrong is found before the
hour that extraction takes.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gsr_core.data.bundle import (
    MIN_GROUP_SIZE,
    Bundle,
    bundle_directory,
    check_rows,
    write_bundle,
)
from gsr_core.data.dataset import Dataset, amend, define
from gsr_core.data.encoding import Columns
from gsr_core.data.grouping import propose_merges
from gsr_core.data.inputs import Inputs, Numbers, thumbnail
from gsr_core.data.source import Roles, Source
from gsr_core.errors import InputError, RunStateError, SettingError
from gsr_core.readers.registry import make_reader
from gsr_core.settings import what_is_wrong
from gsr_core.workspace import Workspace

if TYPE_CHECKING:
    from gsr_core.features.extract import ExtractionProgress

__all__ = [
    "BackboneChoice",
    "ExtractionChoice",
    "Plan",
    "TrainingChoice",
    "command",
    "corrections",
    "import_data",
    "make_plan",
    "plan_of",
    "preview",
    "read",
]

Report = Callable[[float, str], None]
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


def command(plan: Plan, *, overwrite: bool = False, workspace: Path | None = None) -> str:
    """Return the command line that imports by the same plan.

    Args:
        plan: As `make_plan` returns it.
        overwrite: Replace a bundle of that name.
        workspace: Named in the command; None leaves it to the shell it is typed into.
    """
    words = ["gsr", "import", plan.reader]

    def put(option: str, *values: Any) -> None:
        for value in values:
            text = _typed(value)
            words.extend([f"{option}={text}"] if text.startswith("-") else [option, text])

    def put_pairs(option: str, pairs: Mapping[str, Any]) -> None:
        put(option, *(f"{key}={_typed(value)}" for key, value in pairs.items()))

    path = str(plan.settings.get("path", ""))
    if path:
        words.append(f"./{path}" if path.startswith("-") else path)
    put("--name", plan.name)
    if plan.title:
        put("--title", plan.title)
    put_pairs("--set", {key: value for key, value in plan.settings.items() if key != "path"})
    _put_roles(plan.roles, put, put_pairs, words.append)
    if plan.backbone is not None:
        choice = plan.backbone
        put("--backbone", choice.name)
        for option in ("checkpoint", "weights", "layer"):
            if value := getattr(choice, option):
                put(f"--{option}", value)
        words.extend(["--trust"] * choice.trust)
        put_pairs("--factory", choice.arguments)
        put_pairs("--preprocess", choice.overrides)
    if plan.training is not None:
        put("--train", plan.training.preset)
        put_pairs("--train-set", plan.training.settings)
    usual = ExtractionChoice()
    for key, value in plan.extraction:
        if value != getattr(usual, key):
            put("--bad" if key == "on_bad" else f"--{key.replace('_', '-')}", value)
    if workspace is not None:
        put("--workspace", workspace)
    words.extend(["--overwrite"] * overwrite)
    return shlex.join(words)


def _put_roles(
    roles: Mapping[str, Any],
    put: Callable[..., None],
    put_pairs: Callable[..., None],
    flag: Callable[[str], None],
) -> None:
    """Write what differs from the proposal as options; an empty word stands for nothing."""
    if roles.get("label"):
        put("--label", roles["label"])
    if "sample_id" in roles:
        put("--sample-id", roles["sample_id"] or "")
    put("--attribute", *(roles["attributes"] or [""] if "attributes" in roles else []))
    groups = roles.get("groups", {})
    if "kind" in groups:
        put("--groups", groups["kind"])
    put("--group-by", *(groups["columns"] or [""] if "columns" in groups else []))
    if "with_class" in groups:
        flag(f"--{'' if groups['with_class'] else 'no-'}class-in-groups")
    put_pairs("--bins", groups.get("bins", {}))
    put("--merge", *("|".join(each) for each in groups.get("merge", [])))
    split = roles.get("split", {})
    if "column" in split:
        put("--split", split["column"] or "none")
    put_pairs("--split-word", split.get("words", {}))
    for key, option in (
        ("train", "--train-share"),
        ("validation", "--validation-share"),
        ("heldout", "--heldout"),
        ("target", "--target"),
        ("seed", "--split-seed"),
    ):
        if key in split:
            put(option, split[key])


def _typed(value: Any) -> str:
    """Return a value as it is typed in a command."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


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


def read(plan: Plan) -> tuple[Source, Roles]:
    """Read the table of a plan and settle what each column is for; no input is opened.

    Raises:
        SettingError: If a role has a value that is not allowed.
        SourceError: If the files are not in the expected layout.
    """
    source = make_reader(plan.reader, plan.settings).read()
    return source, _settled(source, plan)


def _settled(source: Source, plan: Plan) -> Roles:
    try:
        return amend(source.roles, plan.roles)
    except ValidationError as error:
        raise SettingError(what_is_wrong(error)) from None


def preview(plan: Plan, source: Source | None = None) -> dict[str, Any]:
    """Return what a plan would import, in what JSON can hold.

    Args:
        plan: What and how.
        source: What the plan's reader found, if it was read before.

    Returns:
        `rows` (n), `modality`, `roles`, `classes`, `splits` (names), `groups` (each with `name`,
        `definition` and `counts` by split), `notes`, and `proposed_merges` (pairs of names).

    Raises:
        GsrError: As `import_data` before it extracts.
    """
    if source is None:
        source, roles = read(plan)
    else:
        roles = _settled(source, plan)
    dataset = define(source, roles)
    splits, counts = dataset.counts()
    measured = counts[[split in ("target", "val", "test") for split in splits]]
    return {
        "rows": len(dataset),
        "modality": source.inputs.modality,
        "roles": roles.model_dump(mode="json"),
        "classes": dataset.classes,
        "splits": splits,
        "groups": [
            {
                "name": group.name,
                "definition": group.definition,
                "counts": dict(zip(splits, map(int, counts[:, g]), strict=True)),
            }
            for g, group in enumerate(dataset.groups)
        ],
        "notes": dataset.notes,
        "proposed_merges": propose_merges(dataset.groups, measured, least=MIN_GROUP_SIZE),
    }


def import_data(
    workspace: Workspace,
    plan: Plan,
    *,
    overwrite: bool = False,
    progress: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Bundle:
    """Make a bundle by a plan.

    Features are kept in the workspace's `extractions`, by what they were computed from: an import
    that was interrupted goes on where it was when it is started again, and a second bundle of the
    same inputs and network computes nothing twice.

    Args:
        workspace: Where to.
        plan: What and how.
        overwrite: Replace a bundle of that name.
        progress: Told the fraction done and what is being done.
        should_stop: Asked now and then; True ends the import, and what is done stays.

    Raises:
        SettingError: If the plan does not fit the data: a network for texts and a folder of
            images, say.
        SourceError: If the files or their columns are wrong.
        BundleError: If the bundle's name is taken, or its groups and splits do not make one.
        RunStateError: If `should_stop` said so.
    """
    tell = progress or (lambda fraction, text: None)
    directory = bundle_directory(workspace, plan.name, overwrite=overwrite)
    tell(0.0, "Reading the table")
    source, roles = read(plan)
    dataset = define(source, roles)
    # Everything but the features, which only cost time.
    check_rows(
        dataset.samples,
        dataset.membership,
        dataset.groups,
        dataset.classes,
        np.broadcast_to(np.float32(0), (len(dataset), 1)),
    )
    dataset, files = _encoded(dataset, roles)
    recipe: dict[str, Any] = {
        "plan": plan.model_dump(mode="json"),
        "roles": roles.model_dump(mode="json"),
    }
    if plan.backbone is None:
        if not isinstance(dataset.inputs, Numbers):
            raise SettingError(
                f"{dataset.inputs.modality}s become features by a trained network; name one, for "
                f"instance --backbone {_EXAMPLES[dataset.inputs.modality]}"
            )
        made = _Features(dataset, dataset.inputs.array, head=source.head)
    else:
        made = _computed(workspace, plan, plan.backbone, dataset, tell, should_stop)
        recipe["preprocessing"] = made.preprocessing
    dataset = made.dataset
    tell(0.97, "Writing the bundle")
    with ExitStack() as stack:
        thumbnails, notes = made.thumbnails, [*dataset.notes, *made.notes]
        if source.images is not None:
            thumbnails, more = _shown(source.images.take(dataset.rows), stack)
            notes += more
        bundle = write_bundle(
            directory,
            samples=dataset.samples,
            membership=dataset.membership,
            groups=dataset.groups,
            classes=dataset.classes,
            features=made.features,
            source=source.origin,
            title=plan.title or source.title or None,
            head=made.head,
            thumbnails=thumbnails,
            backbone=made.facts,
            notes=notes,
            recipe=recipe,
            files=files,
            overwrite=overwrite,
            adopt_features=plan.backbone is not None,
        )
    tell(1.0, "Done")
    return bundle


_STOPPED = "the import was stopped; started again with the same settings, it goes on where it was"
_EXAMPLES = {
    "image": "torchvision:resnet50 --weights DEFAULT",
    "text": "sentence:all-MiniLM-L6-v2",
    "numbers": "own:package.module:factory",
}


@dataclass(frozen=True)
class _Features:
    """Features and what came with them; `dataset` has the rows that were kept."""

    dataset: Dataset
    features: np.ndarray
    head: tuple[np.ndarray, np.ndarray] | None = None
    thumbnails: Iterable[bytes | None] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] | None = None
    notes: Sequence[str] = ()


def _encoded(dataset: Dataset, roles: Roles) -> tuple[Dataset, dict[str, bytes]]:
    """Turn the columns of a table into numbers; the encoder learns from training rows only."""
    if not isinstance(dataset.inputs, Columns):
        return dataset, {}
    columns = dataset.inputs.under(roles)
    training = np.flatnonzero(dataset.samples["split"].isin(["train", "heldout"]))
    numbers, encoder, notes = columns.fitted(training)
    files = {"encoder.json": (encoder.model_dump_json(indent=2) + "\n").encode()}
    return replace(dataset, inputs=numbers, notes=[*dataset.notes, *notes]), files


def _computed(
    workspace: Workspace,
    plan: Plan,
    choice: BackboneChoice,
    dataset: Dataset,
    tell: Report,
    should_stop: Callable[[], bool] | None,
) -> _Features:
    from gsr_core.compute import pick
    from gsr_core.features.backbones import load_backbone
    from gsr_core.features.extract import extract

    settings = plan.extraction
    device = pick(settings.device).device
    begin = 0.02
    if plan.training is not None:
        begin = 0.7
        choice = _trained(
            workspace,
            plan,
            choice,
            dataset,
            lambda done, text: tell(0.02 + 0.68 * done, text),
            should_stop,
        )
    tell(begin, "Loading the network")
    arguments = {**choice.call(), "n_classes": len(dataset.classes)}
    backbone = load_backbone(**arguments)
    if backbone.modality != dataset.inputs.modality:
        raise SettingError(
            f"{choice.name} takes {backbone.modality} inputs, but the data are "
            f"{dataset.inputs.modality}; choose a network for {dataset.inputs.modality}"
        )
    key = json.dumps(
        [dataset.inputs.digest(), backbone.facts, backbone.preprocessing.model_dump(mode="json")],
        sort_keys=True,
        default=str,
    )
    folder = workspace.extractions / hashlib.sha256(key.encode()).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)

    def follow(now: ExtractionProgress) -> None:
        tell(begin + (0.97 - begin) * now.done / max(now.total, 1), str(now))

    common: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "on_bad": settings.on_bad,
        "thumbnails": dataset.inputs.modality == "image",
        "progress": follow,
        "should_stop": should_stop,
    }
    if settings.engine == "ray":
        from gsr_core.features.ray_engine import extract_on_ray

        result = extract_on_ray(
            arguments,
            dataset.inputs,
            folder,
            address=settings.address,
            actors=settings.actors,
            device=settings.device,
            **common,
        )
    else:
        result = extract(
            backbone, dataset.inputs, folder, device=device, workers=settings.workers, **common
        )
    if not result.complete:
        raise RunStateError(_STOPPED)
    notes = []
    features, thumbnails = result.features, result.thumbnails()
    if result.bad:
        kept = result.good_rows()
        bad = set(range(len(dataset))) - set(kept.tolist())
        dataset, features = dataset.take(kept), _selected(features, kept, folder / "kept.npy")
        if thumbnails is not None:
            thumbnails = (each for row, each in enumerate(thumbnails) if row not in bad)
        named = "; ".join(f"{each.name}: {each.reason}" for each in result.bad[:NAMED])
        more = f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        notes.append(f"{len(bad):,} inputs could not be read and were left out: {named}{more}.")
    return _Features(
        dataset,
        features,
        head=backbone.head,
        thumbnails=thumbnails,
        facts=backbone.facts,
        preprocessing=backbone.preprocessing.model_dump(mode="json"),
        notes=notes,
    )


def _selected(features: np.ndarray, rows: np.ndarray, file: Path) -> np.ndarray:
    """Write some rows of memory-mapped features to a file of their own, chunk by chunk."""
    shape = (len(rows), features.shape[1])
    file.unlink(missing_ok=True)  # It may be linked from an earlier bundle.
    made = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, len(rows), 65536):
        made[start : start + 65536] = features[rows[start : start + 65536]]
    made.flush()
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _trained(
    workspace: Workspace,
    plan: Plan,
    choice: BackboneChoice,
    dataset: Dataset,
    tell: Report,
    should_stop: Callable[[], bool] | None,
) -> BackboneChoice:
    """Train the network on `train`; return the choice of its checkpoint.

    Raises:
        SettingError: If there are no rows to train on.
        RunStateError: If it was stopped.
    """
    import torch

    from gsr_core.compute import pick
    from gsr_core.features.backbones import load_network
    from gsr_core.features.training import PRESETS, make_training, train

    assert plan.training is not None
    rows = {split: np.flatnonzero(dataset.samples["split"] == split) for split in ("train", "val")}
    if not len(rows["train"]):
        raise SettingError(
            "there are no train rows to train the network on: all are held out; make --heldout "
            "smaller"
        )
    tell(0.0, "Loading the network")
    training = make_training(plan.training.preset, plan.training.settings)
    # The sizes that the preset was published with, unless the user said otherwise.
    overrides = {**PRESETS[plan.training.preset].overrides, **choice.overrides}
    choice = choice.model_copy(update={"overrides": overrides})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(training.seed)  # A new head is drawn from it.
        network = load_network(**choice.call(), n_classes=len(dataset.classes))
    checkpoint = train(
        network,
        dataset.inputs,
        dataset.samples["y"].to_numpy(),
        rows["train"],
        training,
        workspace.root / "backbones" / plan.name,
        device=pick(plan.extraction.device).device,
        val_rows=rows["val"],
        membership=dataset.membership,
        progress=tell,
        should_stop=should_stop,
    )
    if checkpoint is None:
        raise RunStateError(_STOPPED)
    return choice.model_copy(update={"checkpoint": str(checkpoint), "weights": ""})


def _shown(images: Inputs, stack: ExitStack) -> tuple[Iterable[bytes | None] | None, list[str]]:
    """Make a thumbnail of each image; return them in row order, and notes.

    The notes must be known before a bundle is written, and the thumbnails of a million images
    fit no memory; hence the file in between.
    """
    spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    sizes: list[int | None] = []
    unreadable = []
    for row in range(len(images)):
        image = None
        if images.name(row):
            try:
                image = thumbnail(images.load(row))
            except InputError:
                unreadable.append(images.name(row))
        sizes.append(None if image is None else spool.write(image))
    notes = []
    if unreadable:
        notes.append(
            "Images missing or unreadable, so without a thumbnail: "
            f"{len(unreadable)} (first: {unreadable[0]})."
        )
    if all(size is None for size in sizes):
        return None, notes
    spool.seek(0)
    return (None if size is None else spool.read(size) for size in sizes), notes
