"""Groups without group labels: each inference is a frozen record with one method, `infer(problem)`.

What it gives replaces the group columns of a problem, so that any group-aware method can follow.
"""
