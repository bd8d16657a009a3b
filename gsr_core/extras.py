"""Optional libraries, each with the sentence that says how to get it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from gsr_core.errors import MissingExtraError

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: Its dotted name.
        extra: The extra of this package that installs it.

    Raises:
        MissingExtraError: If it is not installed, or does not start.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {module.split('.')[0]}, which cannot be imported here ({error}); install "
            f"it with pip install 'gsr-core[{extra}]'"
        ) from error
