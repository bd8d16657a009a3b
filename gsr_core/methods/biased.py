r"""A head that is meant to be biased: full-batch steps on the generalised cross-entropy.

Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
Labels" (NeurIPS 2018); as the loss of a biased model in Nam et al., "Learning from Failure:
Training Debiased Classifier from Biased Classifier" (NeurIPS 2020):

.. math::
    \ell^{(q)}_i = \frac{1 - p_{i, y_i}^q}{q}, \qquad
    \nabla \ell^{(q)}_i = p_{i, y_i}^q \, \nabla \ell_i ,

so that rows which the head gets wrong barely count. The loss is not convex, and its minimiser is
not the aim: the head is to stop while it still leans on what is easy. So it starts at zero and
takes a stated number of steps of one over the curvature's bound, unpenalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gsr_core.linear.objective import State, gram, transposed_times
from gsr_core.methods.inner import InnerProblem

__all__ = ["curvature_bound", "gce_gradient"]


def curvature_bound(inner: InnerProblem) -> float:
    """Return a bound on the curvature of the rows' mean cross-entropy, generalised or not.

    The Hessian of a softmax in its logits is at most one half, so half the largest eigenvalue of
    the rows' second moment bounds it; steps of its inverse never overshoot.
    """
    # On the CPU, because not every device has eigenvalues.
    moment = gram(inner.design, inner.uniform()).cpu()
    return 0.5 * float(torch.linalg.eigvalsh(moment)[-1])


def gce_gradient(inner: InnerProblem, state: State, exponent: float) -> Tensor:
    """Return the (p, c) gradient of the rows' mean generalised cross-entropy.

    Args:
        inner: The rows.
        state: Where.
        exponent: q in (0, 1]; towards 0 it is cross-entropy.
    """
    residuals = state.probabilities @ inner.basis - inner.basis[inner.labels]
    confidence = torch.exp(-exponent * state.losses)
    weighted = confidence[:, None] * residuals / len(inner.labels)
    return transposed_times(inner.design, weighted)
