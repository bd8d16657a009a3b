"""How well phrases find and group the captioned digits, over seeds.

    python benchmarks/phrases.py [--seeds 3] [--workspace DIR]

Prints a row a seed. Precision at 50 is the share of the 50 samples nearest to a phrase that are of
the colour or digit that it names, among target, val and test, which the network has not seen; the
least of ten digits too. Grouped by phrases: the share of those samples whose colour is the nearest
of "a red digit" and "a green digit".

A second table is of what a scan finds by phrases with the attributes hidden, judged on val for
plain training: the rank of the first colour among the twelve words that the network was trained on,
and among these and 38 of the built-in list; then the true worst group of test, class by colour, of
plain training, and of GSR with groups by "red" and by the true colour.
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
from gsr_core.phrases.vocabulary import phrase_similarities, read_vocabulary
from gsr_core.readers.digits import COLOURS
from gsr_core.runs.samples import sample_table

UNSEEN = ("target", "val", "test")
KNOWN = [*COLOURS, *DIGITS]


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


def detect(place: gsr.Workspace, bundle: gsr.Bundle) -> list[float]:
    """Return the rank of the first colour in two vocabularies, and three true worst groups."""
    before = gsr.run(place, bundle.name, "erm", device="cpu")
    ranks = []
    for vocabulary in (KNOWN, [*KNOWN, *read_vocabulary()[:38]]):
        near = phrase_similarities(place, bundle, vocabulary)
        found = gsr.scan(
            bundle, before, phrases=near, split="val", without=bundle.manifest.attributes
        )
        ranks.append(1 + int(np.argmax(found.table["attribute"].isin(COLOURS))))
    near = phrase_similarities(place, bundle, KNOWN)
    made = gsr.groups_by(place, bundle, f"{bundle.name}-red", COLOURS[0], phrases=near)
    runs = [before, *(gsr.run(place, each.name, "gsr", device="cpu") for each in (made, bundle))]
    worst = [
        sample_table(run, "test").groupby(["y", "colour"])["correct"].mean().min() for run in runs
    ]
    return [float(each) for each in (*ranks, *worst)]


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
        print("| seed | rank of 12 | rank of 50 | before | GSR by red | GSR by the colour |")
        print("|---|---|---|---|---|---|")
        for seed in range(options.seeds):
            found = detect(place, gsr.open_bundle(place, f"captioned-{seed}"))
            cells = " | ".join(f"{each:g}" for each in found[:2])
            shares = " | ".join(f"{each:.3f}" for each in found[2:])
            print(f"| {seed} | {cells} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
