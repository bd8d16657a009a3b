"""How well inferred groups agree with the true ones, for docs/results.md.

    python benchmarks/groups.py synthetic [--seeds 5] [--workspace DIR]
    python benchmarks/groups.py compas compas-scores-two-years.csv
    python benchmarks/groups.py accuracy compas-scores-two-years.csv
    python benchmarks/groups.py cmnist mnist.npz [--seeds 3]

`synthetic` is GraSP's table on its clusters in the plane, clean and with 5 % of the training labels
flipped: features and gradients by k-means, by DBSCAN on Euclidean and on cosine distances; at the
variance of the released code, which the published numbers are of, and at the printed one. `compas`
is ProPublica's table with 12 groups. In both the training and validation rows are clustered
together, as in the paper, and its numbers stand beside ours. `accuracy` is its other table: what
training on the inferred groups gives the worst group of test, on the clusters in the plane and on
COMPAS: a network of three hidden layers, as the paper's, is trained for 300 epochs, and the
methods fit a head to its last layer, where the paper trains networks with groups from the start.
`cmnist` is Coloured MNIST with ten classes and ten colours, 5 % of the training images in the
colour of another class; a small network is trained on it first.

All inferences run at their default settings unless a row says otherwise, and none reads a group.
Each seed makes the data anew. An adjusted Rand index (ARI) counts outliers as one group; the second
one is of the rows that are none. Bundles, runs and clusterings are kept in the workspace, and those
that are there are not computed again.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from methods import cell, compas, outcome
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gsr_core as gsr
from gsr_core.clusterings.compute import compute_clustering
from gsr_core.clusterings.request import request_clustering
from gsr_core.compute import pick
from gsr_core.data.inputs import Numbers
from gsr_core.data.problem import Problem, Rows, load_problem
from gsr_core.inference.agreement import agreement
from gsr_core.inference.base import OUTLIER
from gsr_core.inference.registry import make_inference
from gsr_core.readers.synthetic import Synthetic2D
from gsr_core.workspace import Workspace

Row = dict[str, float]

RELEASED = {"silhouette": "euclidean", "count_outliers": True, "max_outliers": 1.0}
"""How the released code of GraSP judges a radius and density; the grid stays the paper's."""

RELEASED_VARIANCE = 0.1
"""Of a cluster in the plane: what the released notebook draws with; the paper says 0.01."""

IN_THE_PLANE: dict[str, tuple[str, dict[str, object], tuple[float, float] | None]] = {
    "features, k-means": ("kmeans", {"space": "features"}, (0.5505, 0.3631)),
    "features, DBSCAN, Euclidean": ("feasp", {"metric": "euclidean"}, (0.5923, 0.6042)),
    "features, DBSCAN, cosine (FeaSP)": ("feasp", {}, (0.5133, 0.4946)),
    "gradients, k-means": ("kmeans", {"space": "gradients"}, (0.8409, 0.6436)),
    "gradients, DBSCAN, Euclidean": ("grasp", {"metric": "euclidean"}, (0.7724, 0.7237)),
    "gradients, DBSCAN, cosine (GraSP)": ("grasp", {}, (0.6943, 0.6944)),
    "FeaSP, released criterion": ("feasp", RELEASED, None),
    "GraSP, released criterion": ("grasp", RELEASED, None),
    "GraSP, head after 50 epochs": ("grasp", {"reference": "backbone"}, None),
    "k-means, head after 50 epochs": ("kmeans", {"reference": "backbone"}, None),
}
"""Inference, its settings, and the published ARI on the clean and on the contaminated set."""

PUBLISHED_COMPAS = {"eiil": -0.0025, "george": 0.1962, "feasp": 0.2956, "grasp": 0.5453}

PUBLISHED_ACCURACY = {
    "erm": ("0.667 (0.882)", "0.533 (0.827)", "0.471 (0.679)"),
    "cvar_doro": ("0.667 (0.882)", "0.600 (0.834)", "0.471 (0.680)"),
    "eiil": ("0.667 (0.878)", "0.600 (0.812)", "0.059 (0.605)"),
    "george": ("0.533 (0.873)", "0.600 (0.834)", "0.442 (0.623)"),
    "feasp": ("0.667 (0.882)", "0.667 (0.882)", "0.442 (0.623)"),
    "grasp": ("0.800 (0.893)", "0.800 (0.893)", "0.474 (0.672)"),
    "group_dro": ("0.733 (0.864)", "0.800 (0.876)", "0.463 (0.681)"),
}
"""GraSP's table 2, no groups in validation: worst (average) on Synthetic, clean and contaminated,
and on COMPAS; the last row knows the groups."""

ALONE = "classes alone"
"""What an inference that splits nothing would score."""

WITHOUT = ("erm", "llr", "class_balanced")
"""Methods that infer nothing: the backbone's head, and fits to the rows that the others have."""

BATCH = 128
WIDTH = 50
"""Of the three hidden layers of the paper's network for COMPAS."""


def adam(model: nn.Module, features: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    """Train as the paper does: Adam, batches of 128, step size 1e-3 and decay 1e-4 of its grid."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(model(features[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def in_the_plane(flipped: float, variance: float, seed: int) -> Problem:
    """Return the training and validation rows, with a head trained for 50 epochs as the backbone's.

    As in the released code, only training labels are flipped, and a flipped row is of the group of
    its new label and a random attribute. Nothing else is to be assigned, so target and val are the
    same rows.
    """
    source = Synthetic2D(flipped=flipped, flip_in="train", variance=variance, seed=seed).read()
    assert isinstance(source.inputs, Numbers)
    split = source.table["split"].to_numpy()
    position = np.flatnonzero(split != "test")
    part = source.table.iloc[position]
    label = part["label"].to_numpy(np.int64)
    attribute = part["centre"].str[1].to_numpy(np.int64)  # The first coordinate, 0 or 1.
    random = np.random.default_rng(seed).integers(2, size=len(part))
    group = 2 * label + np.where(part["flipped"], random, attribute)
    rows = Rows(
        torch.from_numpy(source.inputs.array[position]),
        torch.tensor(label),
        torch.from_numpy(group[:, None] == np.unique(group)),
        position,
    )
    torch.manual_seed(seed)
    model = nn.Linear(2, 2)
    in_train = torch.from_numpy(split[position] == "train")
    adam(model, rows.features[in_train], rows.labels[in_train], epochs=50, seed=seed)
    head = model.weight.detach(), model.bias.detach()
    return Problem(rows, rows, rows, n_classes=2, compute=pick("cpu"), backbone_head=head)


def score(name: str, settings: Mapping[str, object], problem: Problem) -> Row:
    """Infer groups and compare those of the weighted rows with the true ones."""
    return compared(make_inference(name, settings).infer(problem).weighted, problem)


def compared(found: np.ndarray, problem: Problem) -> Row:
    """Compare groups of the weighted rows with the true ones."""
    agreed = agreement(found, problem.weighted.groups.numpy())
    return {
        "ARI": agreed.ari,
        "without outliers": agreed.ari_kept,
        "outliers": float((found == OUTLIER).mean()),
        "clusters": agreed.n_clusters,
    }


def synthetic(place: Workspace, seeds: int, file: Path | None) -> None:
    """Print GraSP's table in the plane."""
    del place, file
    kinds = {"clean": 0.0, "contaminated": 0.05}
    for variance, (which, kind) in product((RELEASED_VARIANCE, 0.01), enumerate(kinds)):
        problems = [in_the_plane(kinds[kind], variance, seed) for seed in range(seeds)]
        rows = {
            name: [score(inference, settings, problem) for problem in problems]
            for name, (inference, settings, _) in IN_THE_PLANE.items()
        }
        published = {
            name: numbers[which]
            for name, (*_, numbers) in IN_THE_PLANE.items()
            if numbers and variance == RELEASED_VARIANCE
        }
        right = [accuracy(problem) for problem in problems]
        print(
            f"\nvariance {variance}, {kind}; training accuracy of the head after 50 epochs "
            f"{cell(right, 3)}\n"
        )
        print(table(rows, published), flush=True)


def accuracy(problem: Problem) -> float:
    """Return the share of the weighted rows that the backbone's head gets right."""
    assert problem.backbone_head is not None
    weight, bias = problem.backbone_head
    predicted = (problem.weighted.features @ weight.T + bias).argmax(dim=1)
    return float((predicted == problem.weighted.labels).double().mean())


def together(problem: Problem) -> Problem:
    """Return the problem with training and validation rows as the weighted ones."""
    parts = [problem.weighted, problem.target, problem.val]
    rows = Rows(
        torch.cat([each.features for each in parts]),
        torch.cat([each.labels for each in parts]),
        torch.cat([each.groups for each in parts]),
        np.concatenate([each.position for each in parts]),
    )
    return replace(problem, weighted=rows)


def network(features: Tensor, labels: Tensor, n_classes: int, seed: int) -> nn.Sequential:
    """Return the paper's network, trained on rows for 300 epochs."""
    torch.manual_seed(seed)
    sizes = [features.shape[1], WIDTH, WIDTH, WIDTH]
    hidden = [
        layer
        for before, after in pairwise(sizes)
        for layer in (nn.Linear(before, after), nn.ReLU())
    ]
    model = nn.Sequential(*hidden, nn.Linear(WIDTH, n_classes))
    adam(model, features, labels, epochs=300, seed=seed)
    return model


def network_gradients(problem: Problem, seed: int) -> Tensor:
    """Return (n, D) gradients of all parameters of the paper's network, at all rows.

    The network is trained on the weighted rows for 300 epochs.
    """
    rows = problem.weighted
    model = network(rows.features, rows.labels, problem.n_classes, seed)
    parameters = {name: each.detach() for name, each in model.named_parameters()}

    def loss(at: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, at, (row[None],)), label[None])

    rows = together(problem).weighted
    found = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=500)(
        parameters, rows.features, rows.labels
    )
    return torch.cat([each.flatten(start_dim=1) for each in found.values()], dim=1)


def with_features(problem: Problem, features: Tensor) -> Problem:
    """Return a problem to cluster the weighted rows of, with other columns."""
    rows = replace(problem.weighted, source=features)
    few = Rows(rows.features[:1], rows.labels[:1], rows.groups[:1], rows.position[:1])
    return replace(problem, weighted=rows, target=few, val=few)


def compas_groups(place: Workspace, seeds: int, file: Path | None) -> None:
    """Print the COMPAS row."""
    rows: dict[str, list[Row]] = {}
    for seed in range(seeds):
        bundle = made(place, f"compas-{seed}", partial(compas, seed=seed, file=file))
        problem, _ = load_problem(bundle, pick("cpu"))
        joined = together(problem)
        labels = joined.weighted.labels.numpy()
        rows.setdefault(ALONE, []).append(compared(labels, joined))
        known = bundle.samples.iloc[joined.weighted.position]
        for name in ("sex", "race"):
            values, _ = pd.factorize(known[name])
            told = compared(values * problem.n_classes + labels, joined)
            rows.setdefault(f"class x {name}, were it known", []).append(told)
        for name in PUBLISHED_COMPAS:
            rows.setdefault(name, []).append(score(name, {}, joined))
        rows.setdefault("grasp, released criterion", []).append(score("grasp", RELEASED, joined))
        rows.setdefault("feasp, released criterion", []).append(score("feasp", RELEASED, joined))
        # FeaSP on gradients is GraSP.
        deep = with_features(joined, network_gradients(problem, seed))
        for name, settings in {"": {}, ", released criterion": RELEASED}.items():
            found = score("feasp", settings, deep)
            rows.setdefault(f"grasp, gradients of a network{name}", []).append(found)
        print(f"seed {seed}", flush=True)
    print("\n" + table(rows, PUBLISHED_COMPAS))


def behind_a_network(place: Workspace, name: str, seed: int) -> None:
    """Write a bundle anew with the last hidden layer of a network trained on its train rows.

    The network's own head becomes the bundle's. Where all training rows are held out, it has seen
    the rows that carry weights, as the paper's network has.
    """
    bundle = gsr.open_bundle(place, name)
    features = torch.from_numpy(np.array(bundle.features))
    rows = bundle.rows_of[bundle.manifest.weighted_split]
    mean, scale = features[rows].mean(dim=0), features[rows].std(dim=0).clamp(min=1e-6)
    features = (features - mean) / scale
    labels = torch.from_numpy(bundle.y[rows])
    model = network(features[rows], labels, len(bundle.manifest.classes), seed)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        seen = model[:-1](features).numpy()
    gsr.write_bundle(
        bundle.path,
        samples=bundle.samples,
        membership=bundle.membership,
        groups=bundle.manifest.groups,
        classes=bundle.manifest.classes,
        features=seen,
        source=f"{bundle.manifest.source}, behind a network",
        head=(last.weight.detach().numpy(), last.bias.detach().numpy()),
        overwrite=True,
    )


def plane(place: Workspace, name: str, seed: int, flipped: float) -> None:
    """Import the clusters in the plane."""
    settings = {"flipped": flipped, "flip_in": "train", "variance": RELEASED_VARIANCE, "seed": seed}
    gsr.import_data(place, gsr.make_plan(name=name, reader="synthetic", settings=settings))


def accuracies(place: Workspace, seeds: int, file: Path | None) -> None:
    """Print what training on inferred groups gives, beside what was published."""
    makers: dict[str, Callable[[Workspace, str, int], None]] = {
        "clean": partial(plane, flipped=0.0),
        "contaminated": partial(plane, flipped=0.05),
        "compas": partial(compas, file=file),
    }
    lines = ["| | clean | published | contaminated | published | COMPAS | published |"]
    lines.append("|---" * 7 + "|")
    known = {bundle.name for bundle in gsr.list_bundles(place)}
    for (kind, make), seed in product(makers.items(), range(seeds)):
        if f"{kind}-{seed}" not in known:
            make(place, f"{kind}-{seed}", seed)
            behind_a_network(place, f"{kind}-{seed}", seed)
    for name, published in PUBLISHED_ACCURACY.items():
        cells = [f"`{name}`"]
        for kind, there in zip(makers, published, strict=True):
            rows = [outcome(place, f"{kind}-{seed}", name) for seed in range(seeds)]
            worst = cell([row["worst group"] for row in rows], 3)
            cells += [f"{worst} ({cell([row['adjusted'] for row in rows], 3)})", there]
        lines.append(f"| {' | '.join(cells)} |")
        print(name, flush=True)
    print("\nworst group (average by the shares of training)\n\n" + "\n".join(lines))


def coloured(place: Workspace, name: str, seed: int, file: Path | None) -> None:
    """Make Coloured MNIST with ten colours and train a network on it."""
    assert file is not None
    plan = gsr.make_plan(
        name=name,
        reader="coloured-mnist-10",
        settings={"path": str(file), "conflicting": 0.05, "limit": 20_000, "seed": seed},
        roles={"split": {"seed": seed, "column": "split", "heldout": 0.3}},
        backbone={"name": "simconv1"},
        training={"preset": "quick", "settings": {"epochs": 3, "lr": 0.02, "seed": seed}},
    )
    gsr.import_data(place, plan)


def recovered(found: np.ndarray, labels: np.ndarray, conflicting: np.ndarray) -> Row:
    """Return recall and precision of the conflicting rows.

    Found are the rows of all clusters of a class but its largest. Outliers are not found: they
    train nothing.
    """
    minority = np.zeros(len(found), dtype=bool)
    for label in np.unique(labels):
        own = found[(labels == label) & (found != OUTLIER)]
        largest = np.bincount(own).argmax()
        minority |= (labels == label) & (found != OUTLIER) & (found != largest)
    both = (minority & conflicting).sum()
    return {
        "recall": float(both / conflicting.sum()),
        "precision": float(both / minority.sum()) if minority.any() else float("nan"),
    }


def cmnist(place: Workspace, seeds: int, file: Path | None) -> None:
    """Print how SPARE compares with the others on ten colours."""
    rows: dict[str, list[Row]] = {}
    for seed in range(seeds):
        begun = time.perf_counter()
        bundle = made(place, f"cmnist-{seed}", partial(coloured, seed=seed, file=file))
        weighted = bundle.rows_of[bundle.manifest.weighted_split]
        part = bundle.samples.iloc[weighted]
        labels = bundle.y[weighted]
        conflicting = part["alignment"].to_numpy() == "conflicting"
        cells = (part["colour"] + " " + part["y"].astype(str)).to_numpy()
        per_class = np.bincount(labels[conflicting], minlength=10)
        print(
            f"seed {seed}: {len(weighted):,} weighted rows, {per_class.min()} to {per_class.max()} "
            "conflicting ones in a class",
            flush=True,
        )
        for name in (ALONE, *WITHOUT, "spare", "eiil", "george", "grasp", "feasp"):
            row: Row = {}
            if name not in WITHOUT:
                found = labels
                if name != ALONE:
                    request = request_clustering(place, bundle, name)
                    found = compute_clustering(place, request, device="cpu").clusters_of(weighted)
                by_colour = agreement(found, cells[:, None] == np.unique(cells))
                row = {
                    "ARI, class x colour": by_colour.ari,
                    "ARI, class x alignment": agreement(found, bundle.membership[weighted]).ari,
                    "clusters": by_colour.n_clusters,
                    "outliers": float((found == OUTLIER).mean()),
                    **recovered(found, labels, conflicting),
                }
            if name != ALONE:
                reached = outcome(place, bundle.name, name)
                row |= {each: reached[each] for each in ("worst group", "mean")}
            rows.setdefault(name, []).append(row)
        print(f"  {time.perf_counter() - begun:.0f} s", flush=True)
    print("\n" + table(rows, {}))


def made(place: Workspace, name: str, make: Callable[[Workspace, str], None]) -> gsr.Bundle:
    """Return a bundle, made if it is not there."""
    if name not in {bundle.name for bundle in gsr.list_bundles(place)}:
        make(place, name)
    return gsr.open_bundle(place, name)


def table(rows: Mapping[str, list[Row]], published: Mapping[str, float]) -> str:
    """Return mean and standard deviation over the seeds, and what was published, as Markdown."""
    columns = list(dict.fromkeys(key for each in rows.values() for key in each[0]))
    head = [*columns, *(["published ARI"] if published else [])]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name, each in rows.items():
        cells = [
            cell([row[key] for row in each], 1 if key == "clusters" else 3)
            if key in each[0]
            else ""
            for key in columns
        ]
        if published:
            cells.append(f"{published[name]:.3f}" if name in published else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[Workspace, int, Path | None], None]] = {
    "synthetic": synthetic,
    "compas": compas_groups,
    "accuracy": accuracies,
    "cmnist": cmnist,
}


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=TABLES)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workspace", type=Path, help="kept; a temporary directory by default")
    arguments = parser.parse_args()
    if arguments.data != "synthetic" and arguments.file is None:
        parser.error(f"{arguments.data} needs its file")
    # Small products gain nothing from a second thread.
    with tempfile.TemporaryDirectory() as temporary, threadpool_limits(limits=1):
        torch.set_num_threads(1)
        place = gsr.Workspace.at(arguments.workspace or temporary)
        TABLES[arguments.data](place, arguments.seeds, arguments.file)


if __name__ == "__main__":
    main()
