"""Comparing: runs put together over seeds and set against each other in pairs."""
