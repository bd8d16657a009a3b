"""The layers of the project, and what each may know, read off its source."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

import gsr_core

ROOT = Path(gsr_core.__file__).parents[1]
PACKAGE = sorted((ROOT / "gsr_core").rglob("*.py"))
PAGES = sorted((ROOT / "pages").glob("*.py"))
DASHBOARD = [ROOT / "app.py", ROOT / "start.py", *PAGES]

LAYERS = [
    {"app", "start", "pages"},
    {"views", "cli"},
    {"cleaning"},
    {"what_if", "labelling", "reports", "scanning"},
    {"comparing", "experiments", "clusterings", "maps", "looking", "example_job", "phrases"},
    {"curation"},
    {"runs", "figures", "examples", "captioned"},
    {"ingest"},
    {"methods", "reliance"},
    {"inference", "quality", "fairness"},
    {"gradients", "curvature", "metrics"},
    {"linear", "features", "readers"},
    {"data"},
    {"jobs"},
    {"records"},
    {
        "compute",
        "workspace",
        "files",
        "extras",
        "names",
        "notebook",
        "settings",
        "progress",
        "plain",
        "shares",
    },
    {"errors"},
]
"""From top to bottom: a module imports from below, never from above or beside."""

HEIGHT = {name: -depth for depth, layer in enumerate(LAYERS) for name in layer}


@cache
def imports(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


def part(file: Path) -> str:
    """The layered part that a file belongs to: `linear` of `gsr_core/linear/head.py`."""
    inside = file.relative_to(ROOT).parts
    return Path(inside[1] if inside[0] == "gsr_core" else inside[0]).stem


def label(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", [*PACKAGE, *DASHBOARD], ids=label)
def test_imports_point_downwards(file):
    own = part(file)
    if own == "__init__":
        return  # The public names come from everywhere.
    below = {name.split(".")[1] for name in imports(file) if name.startswith("gsr_core.")} - {own}
    assert all(HEIGHT[name] < HEIGHT[own] for name in below), below


@pytest.mark.parametrize("file", [*PACKAGE, *DASHBOARD], ids=label)
def test_only_the_dashboard_knows_streamlit_and_only_charts_know_plotly(file):
    inside, known = label(file), packages(file)
    if not inside.startswith(("app.py", "start.py", "pages/", "gsr_core/views/")):
        assert "streamlit" not in known
    if inside not in ("gsr_core/views/charts.py", "gsr_core/views/map.py"):
        assert "plotly" not in known or inside.startswith("gsr_core/figures/")
    if inside.startswith("gsr_core/figures/"):
        assert "torch" not in known


@pytest.mark.parametrize("file", PAGES, ids=label)
def test_pages_are_short_and_compute_nothing(file):
    assert len(file.read_text().splitlines()) <= 120
    assert not packages(file) & {"torch", "plotly", "numpy", "scipy", "sklearn"}
    assert not [
        node for node in ast.walk(ast.parse(file.read_text())) if type(node) is ast.ClassDef
    ]


@pytest.mark.parametrize(
    "file", [file for file in PACKAGE if file.name not in ("__init__.py", "__main__.py")], ids=label
)
def test_modules_say_what_they_are_for_and_what_is_public(file):
    assert file.stem not in ("utils", "util", "helpers", "common", "misc")
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    assert module.__all__
    assert all(hasattr(module, name) for name in module.__all__)


def test_no_file_names_a_place_on_somebodys_machine():
    places = re.compile(r"[\"'(\s](/home|/Users|/root|/work|/tmp|/mnt|C:\\)[/\\\"']")
    for file in [*PACKAGE, *DASHBOARD, *(ROOT / "tests").rglob("*.py")]:
        if file != Path(__file__):
            assert not places.search(file.read_text()), file


@pytest.mark.parametrize("name", gsr_core.__all__)
def test_every_public_name_is_there(name):
    value = getattr(gsr_core, name)
    assert getattr(importlib.import_module(gsr_core._WHERE[name]), name) is value


def test_public_names_are_listed_once_and_unknown_ones_are_errors():
    assert set(gsr_core.__all__) == set(gsr_core._WHERE)
    assert dir(gsr_core) == sorted(gsr_core.__all__)
    with pytest.raises(AttributeError, match="module 'gsr_core' has no attribute 'nonsense'"):
        _ = gsr_core.nonsense
