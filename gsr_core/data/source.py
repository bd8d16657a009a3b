"""What a reader returns: a table, the inputs behind its rows, and a guess at what each column is.

Nothing is decided here. Which column is the label, how groups are defined and how rows are split
is settled by `Roles`, which a user may correct; `gsr_core.data.dataset.define` then makes the
data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from gsr_core.data.inputs import Inputs

__all__ = ["GroupRule", "Roles", "Source", "SplitRule"]


class GroupRule(BaseModel):
    """How groups are defined.

    Attributes:
        kind: `crossed`: every combination of the columns' values, and of the class if
            `with_class`. `overlapping`: each column is a flag (0/1, false/true, or a score that
            counts from 0.5) and each flag is a group of its own, once for each class if
            `with_class`; a row may belong to several. `named`: one column of group names; an
            empty name is an unknown group.
        columns: Attribute columns; for `named` exactly one.
        with_class: Whether the class takes part; not for `named`.
        bins: Numeric columns to cut into quantile bins first, and how many of each.
        merge: Groups that become one, by name; the first names the result's place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["crossed", "overlapping", "named"] = "crossed"
    columns: tuple[str, ...] = ()
    with_class: bool = True
    bins: dict[str, int] = {}
    merge: tuple[tuple[str, ...], ...] = ()


class SplitRule(BaseModel):
    """How rows are split.

    Attributes:
        column: Column of the file with split words or numbers; None makes splits.
        words: Meaning of each value of that column, as text: `train`, `validation`, `test`, or
            one of the bundle's own five split names. Usual words and 0/1/2 need no entry.
        train: Share of the rows for train, where splits are made.
        validation: Share for validation (target and val together), where splits are made, or
            taken from train where the file has no validation rows.
        heldout: Share of train that is held out: the rows that carry the weights. 1 if the
            backbone has not seen any of them.
        target: Share of the validation rows that become target; the rest is val.
        seed: Of every draw; draws are stratified by class and group where groups are known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str | None = None
    words: dict[str, str] = {}
    train: Annotated[float, Field(gt=0, lt=1)] = 0.6
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    heldout: Annotated[float, Field(ge=0, le=1)] = 0.1
    target: Annotated[float, Field(gt=0, lt=1)] = 0.5
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0


class Roles(BaseModel):
    """What each column is for.

    Attributes:
        label: Column of the class; None if the reader could not tell.
        sample_id: Column of unique names; row numbers if None.
        attributes: Columns that are kept as attributes.
        groups: How groups are defined.
        split: How rows are split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str | None = None
    sample_id: str | None = None
    attributes: tuple[str, ...] = ()
    groups: GroupRule = GroupRule()
    split: SplitRule = SplitRule()


@dataclass(frozen=True)
class Source:
    """A data set as its files have it.

    Attributes:
        table: One row a sample, with every column of the file that could matter; row order is
            that of `inputs`. A column `path` holds the paths of image files.
        inputs: The n inputs of the backbone.
        roles: The reader's proposal; complete for a data set of known layout.
        origin: Where the rows came from, in words.
        names: For a column, the name of each value that has one; the order is kept, and for the
            label it is the order of the classes.
        membership: Groups that the file itself defines, as bool columns by name, instead of
            `roles.groups`; None otherwise. Its `attrs["definitions"]` may have what a sample must
            satisfy to belong, in words, by group.
        head: weight (K, d) and bias (K,) that belong to ready features; None otherwise.
        images: Images to show that the features do not come from; an empty name stands for none.
            None if `inputs` are the images, or there are none.
        region: Column that says where in an image the object of the class is, as
            `looking.regions` reads it; "" if the layout has none.
        title: Name for people, if the data set has one.
        notes: What a user should know, one sentence each.
        warnings: Likewise, of what may go wrong: a user sees them before the import.
    """

    table: pd.DataFrame
    inputs: Inputs
    roles: Roles
    origin: str
    names: Mapping[str, Mapping[Any, str]] = field(default_factory=dict)
    membership: pd.DataFrame | None = None
    head: tuple[Any, Any] | None = None
    images: Inputs | None = None
    region: str = ""
    title: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
