from tests.tiny import *  # noqa: F403
