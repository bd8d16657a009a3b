"""A bundle of the features of a network that a run trained, for what works on bundles."""

from __future__ import annotations

import json

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import bundle_directory, lasting_notes, write_bundle
from gsr_core.errors import RunStateError, SettingError
from gsr_core.features.backbones import load_backbone
from gsr_core.ingest.plan import BackboneChoice
from gsr_core.runs.network import NETWORK, trained_choice
from gsr_core.runs.store import Run

__all__ = ["bundle_of_run"]


def bundle_of_run(run: Run, name: str, *, overwrite: bool = False) -> Bundle:
    """Write a bundle with the features and the head of the network that a run trained.

    Rows, groups and splits stay as they are in the run's bundle. The features' file is shared with
    the run, and stays when the run is deleted; the network's file is the run's.

    Args:
        run: A run of a method that trains the whole network, ended with a kept step.
        name: Of the new bundle.
        overwrite: Replace a bundle of that name.

    Raises:
        RunStateError: If the run has no features yet.
        SettingError: If its method trains no network.
        BundleError: If the name is not allowed or taken, or the run's bundle has changed.
    """
    if run.config.make_method().acts_on == "head":
        raise SettingError(
            f"run '{run.run_id}' fitted a head to the features of its bundle, so that there are no "
            "others; give a run of a method that trains the whole network ('gsr methods')"
        )
    if not run.features_file.exists():
        state = run.state
        further = (
            f"go on with it: gsr continue {run.run_id} --steps {state.step + 1}"
            if state.step
            else "start a new one, since it has no stored step"
        )
        raise RunStateError(
            f"run '{run.run_id}' is {state.status} and has no features"
            + (" yet; wait until it has ended" if state.active else f"; {further}")
        )
    directory = bundle_directory(run.workspace, name, overwrite=overwrite)
    bundle = run.unchanged_bundle()
    seen, manifest = run.seen(bundle), bundle.manifest
    choice = trained_choice(bundle, run.path / NETWORK)
    facts = load_backbone(**BackboneChoice.model_validate(choice).call()).facts
    config = run.config
    notes = lasting_notes(manifest)
    notes.append(
        f"The features are those of the network that run {run.run_id} trained from "
        f"'{bundle.name}' by {config.method}; that run has seen the rows of {run.values_split}."
    )
    return write_bundle(
        directory,
        samples=bundle.samples,
        membership=bundle.membership,
        groups=manifest.groups,
        classes=manifest.classes,
        features=seen.features,
        source=f"{manifest.source}; network of run {run.run_id}",
        title=name,
        head=seen.head,
        thumbnails=(bundle.thumbnail(row) for row in range(len(bundle)))
        if bundle.has_images
        else None,
        columns=bundle.columns(),
        backbone=facts,
        notes=notes,
        recipe=json.loads(json.dumps({**(manifest.recipe or {}), "network": choice})),
        # A run writes a new file when it goes on, so that both can share this one.
        adopt_features=True,
        overwrite=overwrite,
    )
