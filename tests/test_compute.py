import pytest
import torch

from gsr_core.compute import pick
from gsr_core.errors import DeviceError


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_a_cpu_computes_in_float64():
    compute = pick("cpu")
    assert compute.device == torch.device("cpu")
    assert compute.design_dtype == compute.accumulate_dtype == torch.float64
    assert str(compute) == "cpu"


@pytest.mark.usefixtures("no_accelerator")
def test_auto_falls_back_to_the_cpu():
    assert str(pick()) == "cpu"


def test_auto_takes_cuda_first_and_keeps_rows_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    compute = pick()
    assert compute.device.type == "cuda"
    assert (compute.design_dtype, compute.accumulate_dtype) == (torch.float32, torch.float64)
    assert str(pick("cuda:1")) == "cuda:1"
    with pytest.raises(DeviceError, match="'cuda:2' was asked for, but torch sees 2 CUDA devices"):
        pick("cuda:2")


def test_auto_takes_mps_before_the_cpu(monkeypatch, no_accelerator):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    compute = pick()
    assert compute.device.type == "mps"
    assert compute.accumulate_dtype == torch.float32


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", "sees 0 CUDA devices here; use --device cpu or --device auto"),
        ("cuda:3", "'cuda:3' was asked for"),
        ("mps", "no Metal device that torch can use; use --device cpu or --device auto"),
        ("toaster", "'toaster' is not a device name; allowed are auto, cpu, cuda, cuda:N and mps"),
        ("", "'' is not a device name"),
        ("cpu:x", "'cpu:x' is not a device name"),
        ("meta", "'meta' is not supported; allowed are auto, cpu, cuda, cuda:N and mps"),
    ],
)
def test_a_device_that_is_not_here_is_named_with_a_way_out(name, said):
    with pytest.raises(DeviceError, match=said):
        pick(name)
