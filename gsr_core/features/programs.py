"""Programs of torch: TorchScript, and what `torch.export.save` wrote.

A program that ends in a linear layer is cut before it, and the layer is its head; else its output
are the features. Both kinds need trust: TorchScript runs what it holds, and torch.export's
archives keep their constants in pickles that torch reads without restriction.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gsr_core.errors import CheckpointError, SettingError
from gsr_core.features.checkpoints import need_trust
from gsr_core.features.heads import OUTPUT, first_tensor, head_arrays
from gsr_core.features.kinds import Built, Request, first_line, preprocessing_from_options
from gsr_core.features.merging import HEAD_ALONE, Merge, Written
from gsr_core.features.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImagePreprocessing,
    NumbersPreprocessing,
    Preprocessing,
    override,
)

__all__ = [
    "FROZEN",
    "Program",
    "in_batches_of",
    "load_export",
    "load_torchscript",
    "preprocessing_of_shape",
    "program_file",
    "write_export",
    "write_torchscript",
]

FROZEN = "a program is run as it is; load the network that it was made from"
TOLERANCE = 1e-4
_WITHOUT_BIAS = (
    "the last layer '{1}' of {0} has no bias, and a program takes no new tensor; " + HEAD_ALONE
)


class Program(nn.Module):
    """A program, called with the tensors of a batch in their order."""

    def __init__(self, program: nn.Module, names: list[str], fixed: int | None = None) -> None:
        super().__init__()
        self.program = program
        self.names = names
        self.fixed = fixed

    def train(self, mode: bool = True) -> Program:
        """Leave the program as it is: exported ones refuse the call."""
        self.training = mode
        return self

    def forward(self, batch: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return what the program gives, its first output (n, d)."""
        tensors = [batch] if isinstance(batch, Tensor) else _in_order(batch, self.names)
        return in_batches_of(
            self.fixed, tensors, lambda *parts: first_tensor(self.program(*parts)).flatten(1)
        )


def in_batches_of(fixed: int | None, tensors: list[Tensor], run: Any) -> Tensor:
    """Run a program that takes only batches of one size, on a batch of any size.

    Args:
        fixed: That size, or None if it takes any.
        tensors: (n, ...) each.
        run: The program.
    """
    n = len(tensors[0])
    if fixed is None or fixed == n:
        return run(*tensors)
    parts = []
    for start in range(0, n, fixed):
        chunk = [tensor[start : start + fixed] for tensor in tensors]
        lacking = fixed - len(chunk[0])
        if lacking:
            chunk = [
                torch.cat([each, each[-1:].expand(lacking, *each.shape[1:])]) for each in chunk
            ]
        parts.append(run(*chunk)[: fixed - lacking])
    return torch.cat(parts)


def program_file(request: Request) -> Path:
    """Return the program's file.

    Raises:
        CheckpointError: If there is none.
    """
    request.without_weights()
    request.without_arguments()
    file = Path(request.name).expanduser() if request.name else request.file
    if file is None or not file.is_file():
        raise CheckpointError(f"there is no file {file}; give the path of the program")
    return file


def load_torchscript(request: Request) -> Built:
    """Return a TorchScript program.

    Raises:
        SettingError: If it has no linear layer of the name given.
        CheckpointError: If the file is no TorchScript, or does not take its input.
        TrustError: If the caller does not trust it.
    """
    file = program_file(request)
    need_trust(f"the TorchScript program {file.name}", request.trust)
    try:
        program = _read_torchscript(file)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file.name} is not a TorchScript program ({first_line(error)}); write one with "
            "torch.jit.save"
        ) from error
    preprocessing = preprocessing_from_options(request)
    module = Program(program, ["input_ids", "attention_mask", "token_type_ids"][: _arity(program)])
    built = Built(module, preprocessing, trained=True, encoder=True, files=[file], frozen=FROZEN)
    built.facts["n_parameters"] = sum(p.numel() for p in program.parameters())
    if request.layer == OUTPUT:
        return built
    linear = {
        name: layer
        for name, layer in program.named_modules()
        if getattr(layer, "original_name", "") == "Linear"
    }
    if request.layer and request.layer not in linear:
        raise SettingError(
            f"{request.architecture} has no linear layer '{request.layer}'; its linear layers are "
            f"{', '.join(list(linear)[-8:]) or 'none'}, or {OUTPUT}"
        )
    if linear:
        name = request.layer or list(linear)[-1]
        # The options are read again, and checked, when the network is assembled.
        checked = override(preprocessing, request.options)
        batch = checked.collate([checked.prepare(checked.example())] * 2)
        head = _unmask(module, linear[name], batch, request.architecture)
        if head is None and request.layer:
            raise SettingError(
                f"{request.architecture} does not end in '{name}', and a TorchScript program can "
                f"only be cut before its last layer; leave layer out or set it to {OUTPUT}"
            )
        if head is not None:
            built.head, built.facts["layer"] = head, name
    return built


def _read_torchscript(file: Path) -> Any:
    with _quietly():
        return torch.jit.load(file, map_location="cpu").float().eval()


@contextmanager
def _quietly() -> Iterator[None]:
    """Let no warning through: TorchScript is deprecated, but people have files of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unmask(
    module: nn.Module, layer: Any, batch: Any, architecture: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Turn the last layer of a compiled program into the identity; return what it was.

    The layers of a program cannot be taken out, but their weights can be replaced: by the unit
    matrix, and the bias by zeros.

    Returns:
        weight (K, d) and bias (K,), or None if the program does not end in this layer.

    Raises:
        CheckpointError: If the program does not take the batch.
    """
    weight, bias = head_arrays(layer)
    parameters = [each for each in (layer.weight, getattr(layer, "bias", None)) if each is not None]
    before = [each.data for each in parameters]
    try:
        with torch.inference_mode():
            expected = module(batch)
    except Exception as error:
        raise CheckpointError(
            f"{architecture} does not take its input ({str(error).strip().splitlines()[-1][:200]}"
            "); set the preprocessing that it was made for, such as image_size"
        ) from error
    d = weight.shape[1]
    for each, neutral in zip(parameters, (torch.eye(d), torch.zeros(d)), strict=False):
        each.data = neutral.to(each.dtype)
    try:
        with torch.inference_mode():
            features = module(batch)
            logits = features.float() @ torch.from_numpy(weight).T + torch.from_numpy(bias)
        if features.shape[1] == d and torch.allclose(
            logits, expected.float(), rtol=TOLERANCE, atol=TOLERANCE
        ):
            return weight.copy(), bias.copy()
    except RuntimeError:
        pass  # What follows the layer does not take its input.
    for each, value in zip(parameters, before, strict=True):
        each.data = value
    return None


def load_export(request: Request) -> Built:
    """Return a program of `torch.export.save`.

    Raises:
        SettingError: If it has no linear layer of the name given.
        CheckpointError: If the file is no such program.
        TrustError: If the caller does not trust it.
    """
    file = program_file(request)
    need_trust(f"the exported program {file.name}", request.trust)
    try:
        with _quietly():
            module = torch.export.load(file).module()
    except Exception as error:
        raise CheckpointError(
            f"{file.name} is not an exported program ({first_line(error)}); write one with "
            "torch.export.save"
        ) from error
    assert isinstance(module, fx.GraphModule)
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    example = inputs[0].meta["val"]
    head = layer = None
    if request.layer != OUTPUT:
        head, layer = _cut_graph(module, request)
    fixed = example.shape[0] if isinstance(example.shape[0], int) else None
    facts: dict[str, str | int | float | None] = {"n_parameters": n_parameters}
    if layer is not None:
        facts["layer"] = layer
    shape = [side if isinstance(side, int) else None for side in example.shape]
    preprocessing = preprocessing_of_shape(shape, example.dtype.is_floating_point)
    return Built(
        Program(module, [str(node.target) for node in inputs], fixed),
        preprocessing_from_options(request, preprocessing),
        trained=True,
        encoder=True,
        head=head,
        files=[file],
        facts=facts,
        frozen=FROZEN,
    )


def preprocessing_of_shape(shape: list[int | None], floating: bool) -> Preprocessing | None:
    """Return the usual preprocessing for an input of this shape; None where it says nothing."""
    if floating and len(shape) == 4 and shape[2] is not None and shape[2] == shape[3]:
        size = shape[2]
        # The usual margin of ImageNet's evaluation, 256 for 224.
        return ImagePreprocessing(
            image_size=size, resize=round(size * 8 / 7), mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
    if floating and len(shape) == 2 and shape[1] is not None:
        return NumbersPreprocessing(n_inputs=shape[1])
    return None


def _cut_graph(
    module: fx.GraphModule, request: Request
) -> tuple[tuple[np.ndarray, np.ndarray] | None, str | None]:
    """Cut a graph before a linear layer; return the head, and the layer's name.

    Raises:
        SettingError: If there is no linear layer of the name given.
    """
    linear = [
        node
        for node in module.graph.nodes
        if node.target is torch.ops.aten.linear.default
        and isinstance(node.args[1], fx.Node)
        and node.args[1].op == "get_attr"
    ]
    names = [str(node.args[1].target).removesuffix(".weight") for node in linear]
    output = next(node for node in module.graph.nodes if node.op == "output")
    (last, *_others) = output.all_input_nodes
    if request.layer:
        if request.layer not in names:
            raise SettingError(
                f"{request.architecture} has no linear layer '{request.layer}'; its linear layers "
                f"are {', '.join(names[-8:]) or 'none'}, or {OUTPUT}"
            )
        node = linear[names.index(request.layer)]
    elif last in linear:
        node = last
    else:
        return None, None
    name = names[linear.index(node)]
    head = None
    if node is last:
        weight = _attribute(module, node.args[1])
        bias = _attribute(module, node.args[2]) if len(node.args) > 2 else None
        array = weight.detach().float().numpy()
        zeros = np.zeros(len(array), np.float32)
        head = (array, zeros if bias is None else bias.detach().float().numpy())
    features = node.args[0]
    output.replace_input_with(last, features)
    module.graph.eliminate_dead_code()
    module.recompile()
    return head, name


def _attribute(module: nn.Module, node: Any) -> Tensor:
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _arity(program: Any) -> int:
    return len(program.forward.schema.arguments) - 1


def _in_order(batch: Mapping[str, Tensor], names: list[str]) -> list[Tensor]:
    return [batch[name] for name in names] if set(names) <= set(batch) else list(batch.values())


def write_torchscript(merge: Merge, folder: Path) -> Written:
    """Write the TorchScript program with other numbers in its last layer.

    Raises:
        SettingError: If it does not end in a linear layer, or in one without a bias.
    """
    layer = _last_layer(merge)
    program = _read_torchscript(merge.program)
    head: Any = dict(program.named_modules())[layer]
    if getattr(head, "bias", None) is None:
        raise SettingError(_WITHOUT_BIAS.format(merge.architecture, layer))
    for parameter, value in ((head.weight, merge.weight), (head.bias, merge.bias)):
        parameter.data = torch.tensor(value)
    with _quietly():
        torch.jit.save(program, str(folder / "model.ts"))
    assert isinstance(merge.backbone.trunk, Program)
    about = {"model": "model.ts", "inputs": merge.backbone.trunk.names}
    return Written("of_program", "torch.jit.load('model.ts')", about=about)


def write_export(merge: Merge, folder: Path) -> Written:
    """Write the program of torch.export with other numbers in its last layer.

    It is exported once more, because the sizes that follow from the number of classes are part of
    it.

    Raises:
        SettingError: If it does not end in a linear layer, or in one without a bias.
    """
    layer, trunk = _last_layer(merge), merge.backbone.trunk
    assert isinstance(trunk, Program)
    with _quietly():
        module = torch.export.load(merge.program).module()
        parent = module.get_submodule(layer)
        if getattr(parent, "bias", None) is None:
            raise SettingError(_WITHOUT_BIAS.format(merge.architecture, layer))
        parent.weight = nn.Parameter(torch.tensor(merge.weight), requires_grad=False)
        parent.bias = nn.Parameter(torch.tensor(merge.bias), requires_grad=False)
        assert isinstance(module, fx.GraphModule)
        examples = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
        free = [
            {place for place, side in enumerate(each.shape) if not isinstance(side, int)}
            for each in examples
        ]
        inputs = tuple(
            torch.zeros(
                [2 if place in any_size else int(side) for place, side in enumerate(each.shape)],
                dtype=each.dtype,
            )
            for each, any_size in zip(examples, free, strict=True)
        )
        shapes = tuple(dict.fromkeys(any_size, torch.export.Dim.AUTO) or None for any_size in free)
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
        torch.export.save(program, folder / "model.pt2")
    return Written(
        "of_program",
        "torch.export.load('model.pt2').module()",
        about={"model": "model.pt2", "inputs": trunk.names, "batch_size": trunk.fixed},
    )


def _last_layer(merge: Merge) -> str:
    """Return the name of the linear layer in which a program ends.

    Raises:
        SettingError: If it ends in something else.
    """
    if merge.backbone.head is None:
        merge.refuse()
    return str(merge.backbone.facts["layer"])
