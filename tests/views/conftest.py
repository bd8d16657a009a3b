import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _main_module() -> Iterator[None]:
    """Put back the main module, which a page run in this process replaces.

    Processes that a later test starts would otherwise run that page first.
    """
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before
