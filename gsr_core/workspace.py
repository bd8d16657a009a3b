"""Where bundles and runs are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT_WORKSPACE", "Workspace"]

DEFAULT_WORKSPACE = "gsr_workspace"


@dataclass(frozen=True)
class Workspace:
    """A directory with everything a user made: `bundles/`, `runs/`, `maps/` and the job queues.

    Example:
        >>> place.runs.relative_to(place.root).as_posix()
        'runs'
    """

    root: Path

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Take the directory as it is given; `at` knows defaults and `~`."""
        object.__setattr__(self, "root", Path(root))

    @classmethod
    def at(cls, root: str | os.PathLike[str] | None = None) -> Workspace:
        """Return the workspace at `root`, else at `$GSR_WORKSPACE`, else `./gsr_workspace`."""
        place = root or os.environ.get("GSR_WORKSPACE") or DEFAULT_WORKSPACE
        return cls(Path(place).expanduser().resolve())

    @property
    def bundles(self) -> Path:
        """Directory of bundles, one directory each."""
        return self.root / "bundles"

    @property
    def runs(self) -> Path:
        """Directory of runs, one directory each."""
        return self.root / "runs"

    @property
    def maps(self) -> Path:
        """Directory of projections, kept by the digest of what they were computed from."""
        return self.root / "maps"

    @property
    def graphs(self) -> Path:
        """Directory of neighbour graphs, kept by the digest of what they were computed from."""
        return self.root / "graphs"

    @property
    def measured(self) -> Path:
        """Directory of measured properties of inputs, kept by the digest of these."""
        return self.root / "measured"

    @property
    def backbones(self) -> Path:
        """Directory of networks that were trained for bundles, by the names of these."""
        return self.root / "backbones"

    @property
    def extractions(self) -> Path:
        """Directory of features, kept by the digest of what they were computed from."""
        return self.root / "extractions"

    @property
    def jobs(self) -> Path:
        """Directory of the job queues and of the progress of jobs that are not runs."""
        return self.root / "jobs"

    @property
    def slices(self) -> Path:
        """Directory of slices, each a set of samples that a user picked out."""
        return self.root / "slices"

    @property
    def flags(self) -> Path:
        """Directory of flags, a file a bundle's content."""
        return self.root / "flags"

    @property
    def labels(self) -> Path:
        """Directory of group labels by hand, a file a bundle's content."""
        return self.root / "labels"

    @property
    def clusterings(self) -> Path:
        """Directory of clusterings, one directory each."""
        return self.root / "clusterings"

    @property
    def phrases(self) -> Path:
        """Directory of the embeddings of phrases, kept by network and words."""
        return self.root / "phrases"

    @property
    def sweeps(self) -> Path:
        """Directory of sweeps over settings, one directory each."""
        return self.root / "sweeps"

    @property
    def studies(self) -> Path:
        """Directory of studies, one directory each."""
        return self.root / "studies"
