"""What methods that train a whole network have in common.

A network method is a frozen record of hyperparameters with one generator, `epochs`, which says what
the next epoch is: which rows in which batches, and what is done with a batch. Between two epochs it
may ask the `Loop` for the network's outputs, keep tensors, or begin anew. It knows nothing of
devices, files, scores or time: `Loop` trains, `fit` scores and selects, a run writes down.

An epoch is a step of the run. The generator must find its place from `Loop.epoch` and `Loop.kept`
alone, since a run that was stopped begins it anew after its last epoch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.errors import SettingError
from gsr_core.features.presets import PRESETS, Training
from gsr_core.features.trainable import Start
from gsr_core.methods.base import SETTINGS_CONFIG, Method, Range, SearchSpace, Step, settings

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Epoch, Loop

__all__ = ["NetworkMethod"]

_OWN = ("lr", "momentum", "batch_size", "weight_decay", "augment")
"""Settings that belong to an optimiser of one's own choice."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkMethod(Method):
    """A method that trains all parameters of a network, on the rows of `train`."""

    acts_on: ClassVar[Literal["head", "network"]] = "network"
    predicted: ClassVar[bool] = True
    """Whether what it takes is known from passing a batch."""
    search: ClassVar[SearchSpace] = {
        "optimiser": ("sgd", "adam", "adamw"),
        "lr": Range(1e-5, 1e-1),
        "weight_decay": Range(1e-5, 1.0),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Epochs, those of a first network included.")
    ] = 10
    start: Annotated[
        Start,
        Field(
            description="Weights to begin with. initial: those that the bundle's own training "
            "began with, or was given; trained: those that gave the bundle's features, "
            "which are a run's own where 'gsr features' made the bundle; random: new ones."
        ),
    ] = "initial"
    optimiser: Annotated[
        Literal["auto", "sgd", "adam", "adamw"],
        Field(
            description="auto: optimiser, learning rate, momentum, batch size, penalty and "
            "augmentation of the training that made the bundle, else AdamW with 0.0001; with any "
            "other choice the settings below hold."
        ),
    ] = "auto"
    lr: Annotated[float, Field(gt=0, le=10, description="Learning rate, constant.")] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum of SGD.")] = 0.9
    batch_size: Annotated[int, Field(ge=2, le=65_536, description="Rows a batch.")] = 64
    weight_decay: Annotated[
        float,
        Field(ge=0, le=10, description="Penalty on all parameters; decoupled with adamw."),
    ] = 1e-4
    augment: Annotated[
        Literal["none", "crop-flip"],
        Field(description="Change images at random while training: none, or crop and mirror."),
    ] = "none"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="Type of the products; auto mixes types on a CUDA device only."),
    ] = "auto"
    patience: Annotated[
        int, Field(ge=0, description="End after so many epochs without a better one; 0: never.")
    ] = 0

    def check(self) -> None:
        """Refuse settings that are allowed one by one and do not go together.

        Raises:
            SettingError: If a setting was changed that `optimiser` auto does not heed, or no epoch
                is left after the first ones.
        """
        defaults = type(self).__dataclass_fields__
        for name in _OWN if self.optimiser == "auto" else ():
            if getattr(self, name) != defaults[name].default:
                raise SettingError(
                    f"{name} is {getattr(self, name)}, but optimiser is auto, which takes all of "
                    "the bundle's own training; choose an optimiser too, such as optimiser=sgd"
                )
        for name in ("first_epochs", "warmup"):
            if (first := getattr(self, name, 0)) >= self.steps:
                raise SettingError(
                    f"{name} is {first} of {self.steps} steps, which leaves none for what comes "
                    f"after them; set steps to more than {first}"
                )

    def training(self, of_bundle: Training | None) -> Training:
        """Return how to train.

        Args:
            of_bundle: How the bundle's network was trained, None if it was not trained here.
        """
        common = {"epochs": self.steps, "seed": self.seed, "precision": self.precision}
        if self.optimiser != "auto":
            own = {name: getattr(self, name) for name in ("optimiser", *_OWN)}
            return Training(**common, **own, devices=1)
        known = of_bundle or PRESETS["quick"].training
        return Training(**{**known.settings(), **common, "devices": 1})

    @abstractmethod
    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield what each epoch is, until `loop.epoch` has reached `steps` or for ever.

        Args:
            loop: Where training stands, from the start or from where a run was stopped.
        """

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield the network after each epoch.

        Args:
            problem: The data; `problem.network` is what is trained.
            checkpoint: `Step.checkpoint` of the epoch after which to go on; from the start if None.

        Raises:
            SettingError: If the bundle has no network that can be trained, a batch does not fit
                into memory, or the loss is no longer finite.
            Stopped: If it was asked to stop within an epoch.
        """
        # Here, not on top: listing the methods need not load what trains networks.
        from gsr_core.methods.network.loop import Loop

        self.check()
        loop = Loop(self, problem, checkpoint)
        for epoch in self.epochs(loop):
            yield loop.train(epoch)
