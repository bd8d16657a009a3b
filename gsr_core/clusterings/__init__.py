"""Clusterings: groups that an inference finds, as objects on disk."""
