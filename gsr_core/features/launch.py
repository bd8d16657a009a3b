"""Training in several processes, one a device, through Lightning Fabric."""

from __future__ import annotations

import copy
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gsr_core.errors import GsrError
from gsr_core.extras import require
from gsr_core.features.backbones import Network
from gsr_core.features.heads import first_tensor
from gsr_core.features.trainer import TrainingJob, train_rank

__all__ = ["launch"]


def launch(job: TrainingJob) -> bool:
    """Train in `job.size` processes through Lightning Fabric; return whether it was finished."""
    require("lightning_fabric", "train")
    from lightning_fabric.fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    fabric = Fabric(
        accelerator=job.device.type,
        devices=job.size,
        strategy=DDPStrategy(start_method="spawn", find_unused_parameters=_has_unused(job.network)),
        # Not that of a cluster's scheduler or of torchrun, whose processes are not ours.
        plugins=[LightningEnvironment()],
    )
    context = torch.multiprocessing.get_context("spawn")
    messages, stop = context.Queue(), context.Event()
    report, should_stop = job.report, job.should_stop
    sent_job = copy.copy(job)
    sent_job.report, sent_job.should_stop = _Sender(messages), stop.is_set
    outcome: dict[str, Any] = {}
    run: Callable[..., bool] = _train_process

    def launch() -> None:
        try:
            outcome["finished"] = fabric.launch(run, sent_job, messages)
        except BaseException as error:
            outcome["error"] = error

    # In another thread, so that this one can report progress to the caller.
    thread = threading.Thread(target=launch, daemon=True)
    with _environment("MASTER_ADDR", "MASTER_PORT"):
        thread.start()
        try:
            failure = None
            while thread.is_alive() or not messages.empty():
                try:
                    message = messages.get(timeout=0.1)
                except queue.Empty:
                    continue
                if isinstance(message, GsrError):
                    failure = message
                    continue
                report(*message)
                if should_stop():
                    stop.set()
        finally:
            stop.set()
            thread.join()
    if failure is not None:
        raise failure
    if "error" in outcome:
        raise outcome["error"]
    return outcome["finished"]


def _has_unused(network: Network) -> bool:
    """Return whether some parameters do not reach the logits, such as those of BERT's pooler."""
    module, preprocessing = network.module.eval(), network.preprocessing
    example = preprocessing.prepare(preprocessing.example())
    logits = first_tensor(module(preprocessing.collate([example, example])))
    trained = [each for each in module.parameters() if each.requires_grad]
    gradients = torch.autograd.grad(logits.sum(), trained, allow_unused=True)
    return any(each is None for each in gradients)


class _Sender:
    """Progress of the first process, sent to the one that asked for the training."""

    def __init__(self, messages: Any) -> None:
        self.messages = messages

    def __call__(self, fraction: float, text: str) -> None:
        self.messages.put((fraction, text))


def _train_process(fabric: Any, job: TrainingJob, messages: Any) -> bool:
    try:
        return train_rank(fabric, job)
    except GsrError as error:
        # Fabric would hand on only the text of a traceback.
        messages.put(error)
        raise


@contextmanager
def _environment(*names: str) -> Iterator[None]:
    """Put environment variables back to what they were."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
