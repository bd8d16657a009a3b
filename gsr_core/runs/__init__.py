"""Runs on disk: what was asked for, how it stands, and what it left."""
