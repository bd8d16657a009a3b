"""Readers: each turns files in one layout into a `Source`."""
