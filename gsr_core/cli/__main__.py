"""`python -m gsr_core.cli`."""

from gsr_core.cli.main import main

main()
