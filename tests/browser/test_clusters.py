"""From nothing to clusters, a slice of one, its samples, and a file."""

import re

import pandas as pd
from playwright.sync_api import expect

from gsr_core.clusterings.store import list_clusterings
from gsr_core.curation.slices import find_slice

NAME = "greens below five"
SAVE = re.compile("Save these .* as a slice")


def test_a_cluster_is_found_saved_as_a_slice_opened_and_exported(screen, dashboard, ids):
    bundle, page = dashboard.bundle(), screen.page
    screen.open("Map", run=ids["gsr"], layout="pca", space="features")
    screen.click(page.get_by_text("Find clusters", exact=True).first)
    screen.choose("How", "k-means in each class")
    expect(page.get_by_text(re.compile("Clusters the 644 samples of heldout in "))).to_be_visible()
    screen.click(screen.keyed("cluster start").get_by_role("button"))
    expect(page.get_by_role("heading", name=re.compile("^Clusters: k-means"))).to_be_visible()
    screen.idle()
    (found,) = list_clusterings(dashboard.workspace, bundle)
    screen.wait_query(clusters=found.name, colour="cluster")

    # The table is of heldout, as the clustering has it.
    rows = bundle.rows_of["heldout"]
    cluster = found.clusters_of(rows)
    table = {row["cluster"]: row for row in screen.table("most are")}
    names = found.names
    for key, name in names.items():
        assert int(table[name]["samples"]) == (cluster == key).sum()

    # A row of the table is selected on the map.
    smallest = min(names, key=lambda key: (cluster == key).sum())
    choose_row(screen, list(table).index(names[smallest]))
    count = int((cluster == smallest).sum())
    expect(page.get_by_role("heading", name=f"{count} selected", exact=True)).to_be_visible()
    expect(screen.keyed("map features").get_by_role("status")).to_have_text(f"{count} selected")

    everywhere = found.assigned().query(f"cluster == {smallest}")["row"].to_numpy()
    actions = screen.keyed("cluster actions")
    field = page.get_by_label("Name of the slice", exact=True)
    screen.unfold_popover(SAVE, field, within=actions)
    field.fill(NAME)
    screen.press("Save")
    screen.idle()
    saved = find_slice(dashboard.workspace, bundle, NAME)
    assert saved.rows.tolist() == everywhere.tolist()

    screen.open("Samples", run=ids["gsr"], split="test", slice=saved.key)
    in_test = sorted(set(everywhere) & set(bundle.rows_of["test"]))
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {len(in_test)} samples")
    file = screen.download(page.get_by_role("button", name=re.compile("CSV")).first)
    ids_in_test = bundle.samples["sample_id"].iloc[in_test]
    assert sorted(pd.read_csv(file)["sample_id"]) == sorted(ids_in_test)
    screen.sound()


def choose_row(screen, row: int) -> None:
    """Tick a row of the table of clusters: it is drawn on a canvas, at the grid's own places."""
    grid = screen.page.locator("[class*='st-key-cluster-table'] [data-testid=stDataFrame]").first
    grid.scroll_into_view_if_needed()
    area = grid.bounding_box()
    assert area is not None
    rows = grid.locator("tbody tr").count()
    height = area["height"] / (rows + 1)
    screen.page.mouse.click(area["x"] + 16, area["y"] + height * (row + 1.5))
