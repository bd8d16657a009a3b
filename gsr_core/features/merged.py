"""A head put back into the network that its features came from, and checked there.

```
<to>/...          the whole network as its own library writes it
     about.json   classes, preprocessing, what the network takes and gives, and how it was checked
     network.py   opens it by that library alone
     predict.py   classifies images, texts or rows of numbers with it
```

The head stands in coordinates of the features as they are, so that nothing but its numbers has to
be put in. What was written is then opened by `network.py`, is run by `predict.py` on some inputs,
and has to give the logits of the head on their features; else nothing stays.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gsr_core.errors import CheckpointError, GsrError
from gsr_core.features import alone
from gsr_core.features.kinds import KINDS
from gsr_core.features.merging import HEAD_ALONE, Merge, save_tokenizer
from gsr_core.files import is_full, new_directory

__all__ = ["TOLERANCE", "Merged", "write_merged"]

TOLERANCE = 1e-4
"""How far the outputs of a merged network may be from the head's logits on the features that the
network gives in float32, relative to the largest logit."""

_SCRIPTS = Path(str(alone.__file__)).parent


@dataclass(frozen=True)
class Merged:
    """A merged network that was written.

    Attributes:
        files: Names below its directory.
        how: The call that opens it, in words of its library.
        gives: `logits`, `probabilities` or `log-probabilities`: a softmax stays behind the head.
        inputs: Number of inputs that it was run on.
        deviation: Largest difference of its outputs from the head's on the features, relative to
            the largest.
    """

    files: list[str]
    how: str
    gives: str
    inputs: int
    deviation: float

    @property
    def check(self) -> str:
        """How it was checked, in a sentence."""
        return (
            f"run on {self.inputs} of the bundle's inputs, it gives the {self.gives} of the head: "
            f"the largest difference is {self.deviation:.1e} of the largest number, and "
            f"{TOLERANCE:.0e} is allowed"
        )


def write_merged(
    merge: Merge, to: Path, inputs: list[Any], features: np.ndarray, about: dict[str, Any]
) -> Merged:
    """Write a network with a head in it: whole, or not at all.

    Args:
        merge: The head and the network.
        to: The directory to make.
        inputs: n of them, as `Inputs.load` gives them.
        features: (n, d) that the network gives for them in float32.
        about: What else `about.json` is to say.

    Raises:
        SettingError: If the network has no place for the head.
        CheckpointError: If it cannot be written, or what was written does not give the logits of
            the head on the features.
        MissingExtraError: If its library is not installed.
        FileExistsError: If the directory exists.
    """
    logits = features.astype(np.float64) @ merge.weight.T.astype(np.float64) + merge.bias
    # Libraries draw the numbers of a network before they load them.
    with torch.random.fork_rng(devices=[]), new_directory(to.resolve()) as folder:
        try:
            written = KINDS[merge.kind].write(merge, folder)
            preprocessing = merge.backbone.preprocessing
            known = {
                "architecture": merge.architecture,
                "opened_by": written.how,
                "classes": merge.classes,
                **about,
                "takes": written.takes_of(merge.backbone.modality),
                # Where the tokenizer was is a path of this machine.
                "preprocessing": preprocessing.model_dump(mode="json", exclude={"tokenizer"}),
                "trust": merge.trust,
                "tokenizer": "tokenizer",
                "batch_size": None,
                **written.about,
            }
            if known["takes"] == "tokens" and known["tokenizer"] != ".":
                save_tokenizer(merge, folder / known["tokenizer"])
            _write_about(folder, known)
            shutil.copyfile(_SCRIPTS / f"{written.script}.py", folder / "network.py")
            shutil.copyfile(_SCRIPTS / "predict.py", folder / "predict.py")
            network = _names_of(folder / "network.py")["load"]()
            outputs = _names_of(folder / "predict.py")["outputs"](network, inputs)
        except Exception as error:
            # Libraries raise whatever they like, and a missing file of theirs is an OSError too.
            if isinstance(error, GsrError) or is_full(error):
                raise
            # Several lines, of which torch has the tensor's name in the second.
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(
                f"the head cannot be put back into {merge.architecture} ({reason}); {HEAD_ALONE}"
            ) from error
        gives, deviation = _compared(outputs, logits)
        if not deviation <= TOLERANCE:
            raise CheckpointError(
                f"{merge.architecture} with the head in it gives other logits than the head on its "
                f"features: they differ by {deviation:.1e} of the largest, and {TOLERANCE:.0e} is "
                f"allowed; {HEAD_ALONE}"
            )
        checked = {"inputs": len(inputs), "tolerance": TOLERANCE, "deviation": deviation}
        _write_about(folder, {**known, "gives": gives, "checked": checked})
        files = sorted(
            file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
        )
        return Merged(files, written.how, gives, len(inputs), deviation)


def _names_of(script: Path) -> dict[str, Any]:
    """Run a script and return its names.

    It is not imported: that would leave byte code beside it, and the dashboard merges in threads.
    """
    names: dict[str, Any] = {"__name__": script.stem, "__file__": str(script)}
    exec(compile(script.read_text(), script, "exec"), names)
    return names


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    (folder / "about.json").write_text(json.dumps(about, indent=2, allow_nan=False) + "\n")


def _compared(outputs: np.ndarray, logits: np.ndarray) -> tuple[str, float]:
    """Return what a network gives and how far it is from that, relative to the largest."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    forms = {
        "logits": logits,
        "probabilities": np.exp(log_probabilities),
        "log-probabilities": log_probabilities,
    }
    if outputs.shape != logits.shape or not np.isfinite(outputs).all():
        return "logits", float("inf")
    found = {
        name: float(np.abs(outputs - form).max() / (np.abs(form).max() or 1.0))
        for name, form in forms.items()
    }
    gives = min(found, key=lambda name: found[name])
    return gives, found[gives]
