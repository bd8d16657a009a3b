"""A run or a comparison to hand on: a report in one file, and a model card."""
