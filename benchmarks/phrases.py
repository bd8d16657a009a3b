"""How well phrases find and group the captioned digits, over seeds.

    python benchmarks/phrases.py [--seeds 3] [--workspace DIR]

Prints a row a seed. Precision at 50 is the share of the 50 samples nearest to a phrase that are of
the colour or digit that it names, among target, val and test, which the network has not seen; the
least of ten digits too. Grouped by phrases: the share of those samples whose colour is the nearest
of "a red digit" and "a green digit".
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core as gsr  # isort: skip

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from gsr_core.captioned import DIGITS, captioned_digits
from gsr_core.phrases.groups import nearest_phrases
from gsr_core.phrases.search import search
from gsr_core.readers.digits import COLOURS

UNSEEN = ("target", "val", "test")


def precision(
    place: gsr.Workspace, bundle: gsr.Bundle, phrase: str, column: str, value: object
) -> float:
    """Return the share of the 50 samples nearest to a phrase that have a value."""
    rows = np.concatenate([bundle.rows_of[split] for split in UNSEEN])
    found = search(place, bundle, phrase, rows=rows).head(50)
    return float((found[column] == value).mean())


def measure(place: gsr.Workspace, seed: int) -> list[float]:
    """Return seconds to make the example, three precisions, and the share grouped right."""
    begun = time.perf_counter()
    bundle = captioned_digits(place, seed=seed, name=f"captioned-{seed}")
    seconds = time.perf_counter() - begun
    colours = [precision(place, bundle, each, "colour", each) for each in COLOURS]
    digits = [precision(place, bundle, word, "digit", digit) for digit, word in enumerate(DIGITS)]
    nearest, _ = nearest_phrases(place, bundle, [f"a {each} digit" for each in COLOURS])
    rows = np.concatenate([bundle.rows_of[split] for split in UNSEEN])
    right = np.array(COLOURS)[nearest[rows]] == bundle.samples["colour"].to_numpy()[rows]
    shares = (np.mean(colours), np.mean(digits), min(digits), right.mean())
    return [float(each) for each in (seconds, *shares)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workspace", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = gsr.Workspace.at(options.workspace or folder)
        print("| seed | seconds | colours | digits | least digit | grouped right |")
        print("|---|---|---|---|---|---|")
        for seed in range(options.seeds):
            seconds, *shares = measure(place, seed)
            cells = " | ".join(f"{share:.3f}" for share in shares)
            print(f"| {seed} | {seconds:.0f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
