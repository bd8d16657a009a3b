"""The text side of the network behind a bundle, opened again."""

from __future__ import annotations

from gsr_core.data.bundle import Bundle
from gsr_core.errors import CheckpointError, GsrError, SettingError
from gsr_core.features.backbones import load_text_side
from gsr_core.features.text_sides import TextSide
from gsr_core.ingest.plan import plan_of
from gsr_core.ingest.reopen import network_choice

__all__ = ["check_phrases", "text_side_of"]

_TAKERS = (
    "phrases need a network of images and texts (--backbone open_clip:NAME, or hf:NAME of a CLIP "
    "or SigLIP with its shared space), or one of single texts (--backbone sentence:NAME)"
)


def check_phrases(bundle: Bundle) -> None:
    """Look whether a bundle says that its network takes phrases; the network is not opened.

    Raises:
        SettingError: If it does not.
    """
    plan = plan_of(bundle)
    if plan.backbone is None:
        raise SettingError(
            f"bundle '{bundle.name}' was imported as ready features, so that no network is known "
            f"that takes phrases; {_TAKERS}"
        )
    network = network_choice(bundle, "trained")
    name = network.name
    prepares = (bundle.manifest.recipe or {}).get("preprocessing") or {}
    shared = name.startswith("open_clip:") or (
        name.startswith("hf:") and bundle.manifest.backbone.get("pooling") == "projection"
    )
    single = prepares.get("modality") == "text" and prepares.get("pairs") == "joint"
    if shared and plan.training is not None:
        raise SettingError(
            f"the network of bundle '{bundle.name}', {name}, was trained with a head at the "
            "import, which left its text side behind; import the data once more without --train"
        )
    if shared and (name, network.checkpoint) != (plan.backbone.name, plan.backbone.checkpoint):
        raise SettingError(
            f"the network of bundle '{bundle.name}', {name}, was trained further by a run, which "
            "left its text side behind; take the bundle that the run was of"
        )
    if not (shared or single):
        raise SettingError(
            f"the network of bundle '{bundle.name}', {name}, takes no phrases; {_TAKERS}"
        )


def text_side_of(bundle: Bundle) -> TextSide:
    """Open the text side of the network that gave a bundle's features, with its weights checked.

    Raises:
        SettingError: If the bundle does not say which network it was, or that has no text side.
        CheckpointError: If its weights are gone or are others now.
        MissingExtraError: If its library is not installed.

    Example:
        >>> text_side_of(gsr.open_bundle(place, "birds"))
        Traceback (most recent call last):
        ...
        gsr_core.errors.SettingError: bundle 'birds' does not say how it was imported, ...
    """
    check_phrases(bundle)
    choice = network_choice(bundle, "trained")
    if choice.checkpoint and not choice.call()["checkpoint"].exists():
        raise CheckpointError(
            f"the network of bundle '{bundle.name}' is gone: there is no file {choice.checkpoint}; "
            "put it back, or import the data anew"
        )
    try:
        side = load_text_side(**choice.call())
    except GsrError as error:
        raise type(error)(
            f"the network of bundle '{bundle.name}' takes no phrases now: {error}"
        ) from error
    known = bundle.manifest.backbone.get("sha256")
    if known is not None and side.facts["sha256"] != known:
        raise CheckpointError(
            f"the weights of {choice.name} are not those that gave the features of bundle "
            f"'{bundle.name}', so that phrases would mean something else; put these back, or "
            "import the data anew"
        )
    return side
