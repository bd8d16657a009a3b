"""Curvature of whole networks: products, solves, gradients of groups and scores of samples.

Shapes: n rows, P parameters that are trained, K classes, k right-hand sides, m groups.
"""
