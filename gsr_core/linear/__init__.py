"""The last layer: weighted fits, curvature and influence, as functions on tensors.

Shapes: n rows, p design columns (d features and the bias, or fewer in the row space), K classes,
c = K - 1 free coordinates of a softmax head, m groups.
"""
