"""Clusterings: groups that an inference finds, kept as objects on disk."""
