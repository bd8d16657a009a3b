"""Runs: a method applied to a bundle, kept on disk, stoppable and continuable."""
