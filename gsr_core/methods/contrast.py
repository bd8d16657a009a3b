r"""Contrasts: rows that belong together near each other, and far from rows that do not.

Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu and Krishnan, "Supervised Contrastive
Learning" (NeurIPS 2020), in the form that Yang, Nushi, Palangi and Mirzasoleiman give it for
subgroups ("Mitigating Spurious Correlations in Multi-modal Models during Fine-tuning", ICML 2023).
To an anchor i belong positives G(i) and negatives :math:`\hat G(i)`:

.. math::
    L = \operatorname*{mean}_i \frac{1}{|G(i)|} \sum_{p \in G(i)} - \log
        \frac{e^{s_{ip}}}{\sum_{p' \in G(i)} e^{s_{ip'}} + \sum_{q \in \hat G(i)} e^{s_{iq}}} .

All positives are in the denominator, so that an anchor's loss is never below :math:`\log |G(i)|`.
A row without a positive or without a negative is no anchor and has no part in the mean. The mean is
over anchors, each with the mean over its positives: over all pairs at once, anchors of a group of
m rows would count as m squared, and small groups not at all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gsr_core.data.problem import Rows
from gsr_core.methods.draws import per_row

__all__ = ["Contrast", "alike", "contrast", "group_batches"]


class Contrast(NamedTuple):
    """The contrastive loss of some rows.

    Attributes:
        loss: Mean over the anchors, nats; zero without one.
        anchors: How many rows are anchors.
        rows: Of how many.
    """

    loss: Tensor
    anchors: Tensor
    rows: int


def contrast(similarity: Tensor, positive: Tensor, negative: Tensor) -> Contrast:
    """Return the contrastive loss of rows.

    Args:
        similarity: (a, b) of each row, as an anchor, to what it is compared with, over the
            temperature.
        positive: (a, b) bool, which belong to the row; not the row itself.
        negative: (a, b) bool, which do not; what is neither is not looked at.

    Example:
        >>> similarity = torch.tensor([[9.0, 2.0, 2.0, -50.0]])
        >>> positive = torch.tensor([[False, True, True, False]])
        >>> negative = torch.tensor([[False, False, False, True]])
        >>> found = contrast(similarity, positive, negative)
        >>> round(found.loss.item(), 4)  # log 2: both positives are equally far ahead
        0.6931
    """
    is_anchor = positive.any(dim=1) & negative.any(dim=1)
    # Rows that are no anchor compare with all, so that their sums are finite; they do not count.
    compared = positive | negative | ~is_anchor[:, None]
    total = similarity.masked_fill(~compared, -torch.inf).logsumexp(dim=1)
    own = (similarity * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    anchors = is_anchor.sum()
    loss = ((total - own) * is_anchor).sum() / anchors.clamp(min=1)
    return Contrast(loss, anchors, len(similarity))


def alike(group: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positives and negatives (b, b) of rows by their groups.

    Args:
        group: (b,) int64; a row of a negative number is in no group, and nobody's positive or
            negative.
    """
    known = group >= 0
    both, same = known[:, None] & known, group[:, None] == group
    return (same & both).fill_diagonal_(False), ~same & both


def group_batches(
    rows: Rows, group: np.ndarray, size: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Deal rows out into batches in which every group is, while its rows last.

    Each row comes once. A group's rows are spread evenly over the batches, at least two together,
    so that they are positives of each other; one with fewer rows than that takes is in as many
    batches as it has pairs.

    Args:
        rows: (n,) rows.
        group: (n,) the group of each.
        size: Rows of a batch; batches differ by at most one row for each group.
        generator: Is advanced.

    Returns:
        Places of rows, batch by batch.
    """
    drawn = per_row(rows, generator)
    number = -(-len(rows) // size)
    batches: list[list[np.ndarray]] = [[] for _ in range(number)]
    sizes = np.zeros(number, dtype=np.int64)
    for each in np.unique(group):
        members = np.flatnonzero(group == each)
        members = members[np.argsort(drawn[members], kind="stable")]
        parts = np.array_split(members, min(number, max(len(members) // 2, 1)))
        # The first parts are the larger ones, for the batches that are smallest so far.
        for place, part in zip(np.argsort(sizes, kind="stable"), parts, strict=False):
            batches[place].append(part)
            sizes[place] += len(part)
    filled = [np.concatenate(parts) for parts in batches if parts]
    return [filled[place] for place in generator.permutation(len(filled))]
