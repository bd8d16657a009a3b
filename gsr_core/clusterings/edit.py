"""Renaming and merging clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from filelock import FileLock

from gsr_core.clusterings.store import Clustering, Edits
from gsr_core.errors import SettingError
from gsr_core.files import replace_file
from gsr_core.names import check_text

__all__ = ["NO_NAMES", "merge_clusters", "rename_cluster"]


NO_NAMES = ("outlier", "outliers", "not clustered")
"""Names that mean something else, so that no cluster may have them."""

_NAME_LENGTH = 60


def rename_cluster(clustering: Clustering, cluster: int, name: str) -> None:
    """Rename a cluster.

    Raises:
        SettingError: If the name is empty, too long, taken or reserved, or there is no such
            cluster.
    """
    name = name.strip()
    check_text("a cluster's name", name)
    if not 1 <= len(name) <= _NAME_LENGTH:
        raise SettingError(
            f"a cluster's name has {len(name)} characters; give it 1 to {_NAME_LENGTH}"
        )
    if name in NO_NAMES:
        raise SettingError(
            f"'{name}' says that a sample is in no cluster; give the cluster another name"
        )

    def change(edits: Edits, names: Mapping[int, str]) -> None:
        if name in [other for key, other in names.items() if key != cluster]:
            raise SettingError(f"another cluster is called '{name}' already; choose another name")
        edits.names[cluster] = name

    _edit(clustering, [cluster], change)


def merge_clusters(clustering: Clustering, one: int, other: int) -> None:
    """Make a cluster part of another one of its class, which keeps its name.

    Args:
        clustering: The clustering of both.
        one: The cluster that stays.
        other: The cluster that becomes part of it.

    Raises:
        SettingError: If there is no such cluster, or they are of different classes.
    """
    classes = clustering.record.classes

    def change(edits: Edits, names: Mapping[int, str]) -> None:
        if one == other:
            raise SettingError(f"cluster '{names[one]}' cannot be merged with itself; choose two")
        if classes[one] != classes[other]:
            raise SettingError(
                f"clusters '{names[one]}' and '{names[other]}' are of different classes; a group "
                "has samples of one class, so merge clusters of the same"
            )
        edits.merged = {
            key: one if value == other else value for key, value in edits.merged.items()
        } | {other: one}

    _edit(clustering, [one, other], change)


def _edit(
    clustering: Clustering,
    clusters: list[int],
    change: Callable[[Edits, Mapping[int, str]], None],
) -> None:
    """Change the edits under a lock, so that two windows do not overwrite each other's.

    Raises:
        SettingError: If there is no such cluster.
    """
    with FileLock(clustering.path.with_name(f".{clustering.name}.lock")):
        names = clustering.names
        for each in clusters:
            if each not in names:
                raise SettingError(
                    f"there is no cluster {each}; clusters are "
                    f"{', '.join(f'{key} ({name})' for key, name in names.items())}"
                )
        edits = clustering._edits
        change(edits, names)
        with replace_file(clustering.path / "edits.json") as temporary:
            temporary.write_text(edits.model_dump_json(indent=2) + "\n")
