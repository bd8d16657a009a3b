"""The command line `gsr`, one module a family of commands."""
