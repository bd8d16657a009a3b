"""Your own network: made by a function of your package, or pickled whole.

Either runs code that somebody else may have written, so both need trust.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gsr_core.errors import CheckpointError, SettingError
from gsr_core.features.checkpoints import load_pickle, need_trust
from gsr_core.features.kinds import Built, Request, first_line, preprocessing_from_options
from gsr_core.features.merging import Merge, Written, save_state

__all__ = ["load_own", "load_pickled", "write_own", "write_pickled"]


def load_own(request: Request) -> Built:
    """Call `package.module:factory` with the arguments and return the network that it gives.

    The factory may be a dotted name inside the module, such as a class method.

    Raises:
        SettingError: If there is no such factory, or it fails.
        TrustError: If the caller does not trust it.
    """
    module_name, _, attribute = request.name.partition(":")
    if not module_name or not attribute:
        raise SettingError(
            f"'{request.architecture}' lacks a name, as in own:package.module:factory"
        )
    request.without_weights()
    need_trust(f"the factory '{request.name}'", request.trust)
    try:
        with _working_directory_importable():
            factory: Any = import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        raise SettingError(
            f"there is no factory '{request.name}' ({first_line(error)}); give the module's name "
            "as Python imports it, a colon, and the function's name"
        ) from error
    try:
        network = factory(**request.arguments)
    except Exception as error:
        raise SettingError(
            f"the factory '{request.name}' fails with the arguments "
            f"{', '.join(request.arguments) or '(none)'}: {first_line(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise SettingError(
            f"the factory '{request.name}' gives {type(network).__name__}; it has to return an "
            "nn.Module"
        )
    return _of_module(request, network, [])


def load_pickled(request: Request) -> Built:
    """Return a whole network as `torch.save(network, file)` wrote it.

    Raises:
        CheckpointError: If the file is missing or holds something else.
        TrustError: If the caller does not trust it.
    """
    file = Path(request.name).expanduser() if request.name else request.file
    assert file is not None
    request.without_weights()
    request.without_arguments()
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}; give its path")
    need_trust(f"the pickle {file.name}", request.trust)
    with _working_directory_importable():
        network = load_pickle(file, trust=True)
    if not isinstance(network, nn.Module):
        raise CheckpointError(
            f"{file.name} holds {type(network).__name__} instead of a network; a state dict is "
            "loaded by the name of its architecture"
        )
    return _of_module(request, network, [file])


def _of_module(request: Request, network: nn.Module, files: list[Path]) -> Built:
    options = request.options
    if options.get("modality") == "numbers" and "n_inputs" not in options:
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if linear:
            options["n_inputs"] = linear[0].in_features
    facts: dict[str, str | int | float | None] = {}
    if request.arguments:
        facts["arguments"] = ", ".join(f"{key}={value}" for key, value in request.arguments.items())
    return Built(
        network, preprocessing_from_options(request), trained=True, files=files, facts=facts
    )


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Find modules beside which a command is run, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def write_own(merge: Merge, folder: Path) -> Written:
    """Write the state dict of what the factory gives, with its head replaced.

    Raises:
        SettingError: If the features are not those before its head.
    """
    save_state(merge.network(), folder)
    place = merge.place
    return Written(
        "of_own",
        f"{merge.name}(...) with '{place['name']}' for {len(merge.classes)} classes, with "
        "model.safetensors",
        about={"factory": merge.name, "arguments": merge.arguments, "head": place},
    )


def write_pickled(merge: Merge, folder: Path) -> Written:
    """Write the whole network as `torch.save` does, as it came.

    Raises:
        SettingError: If the features are not those before its head.
    """
    torch.save(merge.network(), folder / "model.pt")
    about = {"model": "model.pt", "inputs": None}
    return Written("of_program", "torch.load('model.pt', weights_only=False)", about=about)
