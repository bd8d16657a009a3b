"""A refit as a run of its own, which pages and commands take like any other."""

from __future__ import annotations

from gsr_core.data.edits import RowEdit
from gsr_core.data.variation import make_variation
from gsr_core.runs.store import Run, create_run
from gsr_core.what_if.refits import Refits

__all__ = ["keep_refit"]


def keep_refit(refits: Refits, edit: RowEdit) -> Run:
    """Make a run of the edit that waits to be computed.

    Its method, settings and seed are those of the run that was edited, which say where the weights
    are from and which labels they cost; its variation has the edit as well. The weights that the
    edit changes are stored with it, so that the other run may be deleted.

    Args:
        refits: The run that is edited.
        edit: From `make_edit`.

    Raises:
        GsrError: As `create_run`.

    Example:
        >>> refits = gsr.open_refits(gsr.run(place, "birds", "gsr", steps=3))
        >>> edit = gsr.make_edit(refits, gsr.Selection(refits.position[:2], "a try"), "drop")
        >>> kept = keep_refit(refits, edit)
        >>> print(gsr.execute(kept).status, kept.weights()["weight"].to_numpy()[:2])
        finished [0. 0.]
    """
    run, config = refits.run, refits.run.config
    variation = make_variation(config.variation)
    edited = variation.model_copy(update={"edits": (*variation.edits, edit)})
    return create_run(
        *(run.workspace, config.bundle, config.method, config.whole_settings),
        device=config.device,
        variation=edited.changes(),
        sweep=config.sweep,
        base_weights=refits.weight,
    )
