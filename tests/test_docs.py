"""Code of the documents that stands alone runs, and does what the text says."""

import re
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import TensorDataset

import gsr_core as gsr
from gsr_core.runs.export import export_run
from tests.tiny import write_tiny

DOCS = Path(gsr.__file__).parents[1] / "docs"


def code(document: str, word: str) -> str:
    """Return the one block of Python in a document that has a word in it."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return found


def test_the_sampler_draws_each_sample_as_often_as_it_weighs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = gsr.Workspace.at("gsr_workspace")
    bundle = write_tiny(place, "birds")
    run = gsr.run(place, "birds", "gsr", steps=20)
    export_run(run, Path("taken-home"))
    # The user's own data set has an order of its own.
    order = torch.randperm(len(bundle), generator=torch.manual_seed(1))
    drawn: list[int] = []

    class Mine(TensorDataset):
        def __getitem__(self, index):
            drawn.append(int(order[index]))
            return super().__getitem__(index)

        def __getitems__(self, indices):
            return [self[index] for index in indices]

    features, labels = torch.tensor(bundle.features)[order], torch.tensor(bundle.y)[order]
    model = torch.nn.Linear(5, 2)
    torch.nn.init.zeros_(model.weight)
    names = {
        "data": Mine(features, labels),
        "ids": bundle.samples["sample_id"].to_numpy()[order].tolist(),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.5),
    }
    block = code("python.md", "WeightedRandomSampler")
    exec(block.replace("range(10)", "range(50)"), names)
    weights = run.weights()
    share = pd.Series(drawn).value_counts(normalize=True).reindex(weights["row"], fill_value=0)
    expected = weights["weight"].to_numpy()
    # Of 2,000 draws, within five standard deviations.
    assert len(drawn) == 2000
    assert (abs(share - expected) <= 5 * (expected * (1 - expected) / 2000) ** 0.5).all()
    assert model.weight.detach().norm() > 0.1


def test_the_report_and_the_model_card_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = gsr.Workspace.at("gsr_workspace")
    write_tiny(place, "birds")
    block = code("python.md", "make_report").replace("steps=100", "steps=3")
    exec(block, {"gsr": gsr, "place": place, "Path": Path})
    assert {file.name for file in tmp_path.glob("*.*")} == {"birds.html", "MODEL_CARD.md"}
