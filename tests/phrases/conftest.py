from tests.cli.conftest import call  # noqa: F401
from tests.tiny import *  # noqa: F403
