"""Data sets made of random numbers: GraSP's clusters in the plane, and PDE's patches."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import Numbers
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.readers.base import READER_CONFIG, Reader, settings

__all__ = ["CENTRES", "Patches", "Synthetic2D", "draw_patches"]

CENTRES = (
    ((1, 5), 0, "group 3"),
    ((1, 3), 0, "group 3"),
    ((1, 2), 0, "group 3"),
    ((1, 1), 0, "group 3"),
    ((0, 4), 0, "group 2"),
    ((0, 5), 1, "group 1"),
    ((0, 3), 1, "group 1"),
    ((0, 2), 1, "group 1"),
    ((0, 1), 1, "group 1"),
    ((1, 4), 1, "group 4"),
)
"""Centre, class and group of each cluster of `Synthetic2D`."""

GROUPS = {
    "group 1": "group 1 (class 1, majority)",
    "group 2": "group 2 (class 0, minority)",
    "group 3": "group 3 (class 0, majority)",
    "group 4": "group 4 (class 1, minority)",
}


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Synthetic2D(Reader):
    """Ten clusters in the plane, two classes, four groups.

    "Outlier-Robust Group Inference via Gradient Space Clustering", section 4.1: isotropic Gaussians
    of variance 0.01 with 100 points each; class 0 around (1, 5), (1, 3), (1, 2), (1, 1) and, its
    minority, (0, 4); class 1 around (0, 5), (0, 3), (0, 2), (0, 1) and, its minority, (1, 4);
    shuffled and split 60 / 20 / 20. The contaminated set has 5 % of all labels flipped.

    The paper calls both minorities group 2; the last is taken for group 4 of the four it speaks
    of. A flipped point keeps the group that it was drawn from. The authors' code flips training
    labels only: `flip_in` has both. They also draw with a variance of 0.1, of which the published
    numbers are.
    """

    name: ClassVar[str] = "synthetic"
    title: ClassVar[str] = "Clusters in the plane"
    summary: ClassVar[str] = (
        "Random numbers: ten Gaussian clusters in two dimensions (Synthetic of GraSP)."
    )
    path_help: ClassVar[str] = "nothing: no file is read"

    flipped: Annotated[
        float,
        Field(ge=0, le=0.5, description="Share of flipped labels; 0.05 is the contaminated set."),
    ] = 0.0
    flip_in: Annotated[
        Literal["all", "train"], Field(description="Splits whose labels are flipped.")
    ] = "all"
    variance: Annotated[float, Field(gt=0, description="Of each cluster, in each direction.")] = (
        0.01
    )
    points: Annotated[int, Field(ge=5, description="Points of each cluster.")] = 100
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Of every draw.")] = 0

    def read(self) -> Source:
        """Draw the points."""
        rng = np.random.default_rng(self.seed)
        n = len(CENTRES) * self.points
        cluster = rng.permutation(np.repeat(np.arange(len(CENTRES)), self.points))
        centre = np.array([each for each, _, _ in CENTRES], dtype=float)[cluster]
        points = centre + rng.normal(scale=self.variance**0.5, size=(n, 2))
        split = np.full(n, "train", dtype="U10")
        split[round(0.6 * n) : round(0.8 * n)] = "validation"
        split[round(0.8 * n) :] = "test"

        clean = np.array([label for _, label, _ in CENTRES])[cluster]
        may = np.flatnonzero((split == "train") | (self.flip_in == "all"))
        flipped = np.zeros(n, dtype=bool)
        flipped[rng.permutation(may)[: round(self.flipped * len(may))]] = True
        table = pd.DataFrame(
            {
                "split": split,
                "label": clean ^ flipped,
                "true_group": np.array([GROUPS[group] for _, _, group in CENTRES])[cluster],
                "centre": np.array([f"({x}, {y})" for (x, y), _, _ in CENTRES])[cluster],
                "flipped": flipped,
                "clean_label": np.array(["class 0", "class 1"])[clean],
                "x1": points[:, 0],
                "x2": points[:, 1],
            }
        )
        where = "labels" if self.flip_in == "all" else "training labels"
        return Source(
            table=table,
            inputs=Numbers(points.astype(np.float32)),
            roles=Roles(
                label="label",
                attributes=("true_group", "centre", "flipped", "clean_label"),
                groups=GroupRule(kind="named", columns=("true_group",), with_class=False),
                split=SplitRule(column="split"),
            ),
            origin=f"random numbers; seed {self.seed}",
            names={"label": {0: "class 0", 1: "class 1"}},
            title=self.title,
            notes=(
                (
                    f"{self.flipped:.1%} of the {where} are flipped; a flipped point keeps the "
                    "group that it was drawn from.",
                )
                if flipped.any()
                else ()
            ),
        )


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Patches(Reader):
    r"""Patches with a core feature, a spurious one and noise.

    UCLA thesis "Data-efficient and Robust Deep Learning from Large Vision and Language Data",
    Definition 6.1.1 and section 9.5.1: y is +1 or -1 at random, a = y with probability alpha and
    -y otherwise; v_c and v_s are orthonormal; of P patches in d dimensions one is

    .. math:: \beta_c \, y \, v_c, \qquad \text{one} \quad \beta_s \, a \, v_s, \qquad
        \text{the others} \quad \xi \sim N(0, (\sigma_p^2 / d) I_d),

    in random order. 10,000 training and 10,000 test samples, d = 50, P = 3, alpha = 0.98,
    beta_c = 0.2, beta_s = 1, sigma_p = 0.78; with beta_c = 1 and beta_s = 0.2 it is the second
    case of the thesis, where the core feature is learnt first.

    The thesis has no validation set: `n_validation` samples are added, in which alpha is
    `alpha_validation`, one half by default so that all four groups are there.
    A sample is given as its P * d numbers, patch after patch.
    """

    name: ClassVar[str] = "patches"
    title: ClassVar[str] = "Synthetic patches"
    summary: ClassVar[str] = (
        "Random numbers: patches with a core and a spurious feature (Definition 6.1.1 of PDE)."
    )
    path_help: ClassVar[str] = "nothing: no file is read"

    alpha: Annotated[
        float, Field(ge=0, le=1, description="Probability that the spurious sign is the class's.")
    ] = 0.98
    alpha_validation: Annotated[
        float, Field(ge=0, le=1, description="The same in the validation samples.")
    ] = 0.5
    beta_core: Annotated[float, Field(gt=0, description="Length of the core patch.")] = 0.2
    beta_spurious: Annotated[float, Field(gt=0, description="Length of the spurious patch.")] = 1.0
    noise: Annotated[float, Field(ge=0, description="Typical length of a noise patch.")] = 0.78
    dimension: Annotated[int, Field(ge=2, description="Numbers of a patch, d.")] = 50
    patches: Annotated[int, Field(ge=2, description="Patches of a sample, P.")] = 3
    n_train: Annotated[int, Field(ge=1, description="Training samples.")] = 10_000
    n_validation: Annotated[int, Field(ge=1, description="Validation samples.")] = 2_000
    n_test: Annotated[int, Field(ge=1, description="Test samples.")] = 10_000
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Of every draw.")] = 0

    def read(self) -> Source:
        """Draw the samples."""
        rng = np.random.default_rng(self.seed)
        sizes = {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}
        split = np.repeat(list(sizes), list(sizes.values()))
        n = len(split)
        y = rng.choice([-1, 1], size=n)
        alpha = np.where(split == "validation", self.alpha_validation, self.alpha)
        a = np.where(rng.uniform(size=n) < alpha, y, -y)
        x, place = draw_patches(
            y,
            a,
            dimension=self.dimension,
            patches=self.patches,
            beta_core=self.beta_core,
            beta_spurious=self.beta_spurious,
            noise=self.noise,
            rng=rng,
        )
        table = pd.DataFrame(
            {
                "split": split,
                "label": y,
                "spurious": np.where(a > 0, "a = +1", "a = -1"),
                "alignment": np.where(a == y, "aligned", "conflicting"),
                "core_patch": place[:, 0],
                "spurious_patch": place[:, 1],
            }
        )
        return Source(
            table=table,
            inputs=Numbers(x.reshape(n, -1)),
            roles=Roles(
                label="label",
                attributes=("spurious", "alignment"),
                groups=GroupRule(columns=("spurious",)),
                split=SplitRule(column="split"),
            ),
            origin=f"random numbers; seed {self.seed}",
            names={"label": {-1: "y = -1", 1: "y = +1"}},
            title=self.title,
            notes=(
                f"A sample is {self.patches} patches of {self.dimension} numbers, one after the "
                "other.",
                f"The spurious sign agrees with the class with probability {self.alpha} in train "
                f"and test, {self.alpha_validation} in validation, which the thesis does not have.",
            ),
        )


def draw_patches(
    y: np.ndarray,
    a: np.ndarray,
    *,
    dimension: int,
    patches: int,
    beta_core: float,
    beta_spurious: float,
    noise: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the patches of Definition 6.1.1; see `Patches`.

    Args:
        y: (n,) classes, -1 or +1.
        a: (n,) spurious signs, -1 or +1.
        dimension: d.
        patches: P.
        beta_core: Length of the core patch.
        beta_spurious: Length of the spurious patch.
        noise: sigma_p.
        rng: Of every draw.

    Returns:
        (n, P, d) float32 patches, and (n, 2) the places of the core and the spurious one.
    """
    n = len(y)
    core, spurious = np.linalg.qr(rng.normal(size=(dimension, 2)))[0].T
    x = rng.normal(scale=noise / dimension**0.5, size=(n, patches, dimension))
    x = x.astype(np.float32)
    place = rng.permuted(np.tile(np.arange(patches), (n, 1)), axis=1)[:, :2]
    rows = np.arange(n)
    x[rows, place[:, 0]] = beta_core * y[:, None] * core
    x[rows, place[:, 1]] = beta_spurious * a[:, None] * spurious
    return x, place
