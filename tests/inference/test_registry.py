import json
from dataclasses import fields

import pytest
import torch

from gsr_core.errors import SettingError
from gsr_core.inference.registry import INFERENCES, make_inference


@pytest.fixture(params=INFERENCES)
def name(request):
    return request.param


def test_it_is_valid_with_no_settings_and_describes_itself(name):
    inference = make_inference(name)
    assert inference.title
    assert inference.summary.endswith(".")
    assert inference.space in ("gradients", "features", "logits")
    assert not inference.reads_target_groups
    assert 0 <= inference.predicted_bytes([300, 200], 64, 2) < 2**27


def test_settings_survive_json_and_text(name):
    inference = make_inference(name, {"seed": 3})
    values = {each.name: getattr(inference, each.name) for each in fields(inference)}
    assert make_inference(name, json.loads(json.dumps(values))) == inference
    assert make_inference(name, {key: str(value) for key, value in values.items()}) == inference


def test_what_is_wrong_is_said(name):
    with pytest.raises(SettingError, match=rf"{name} has no setting 'sed' \(did you mean 'seed'"):
        make_inference(name, {"sed": 1})
    with pytest.raises(SettingError, match=rf"{name}: seed is -1; input should be"):
        make_inference(name, {"seed": -1})


def test_an_unknown_inference_is_named_with_those_there_are():
    with pytest.raises(
        SettingError, match=r"no inference 'grap' \(did you mean 'grasp'\?\); .*eiil"
    ):
        make_inference("grap")


def test_the_head_is_the_one_whose_space_it_is_whatever_the_order(name, blobs, reordered):
    inference = make_inference(name)
    head = inference.head(blobs)
    assert (head is None) == (inference.space == "features")
    if head is not None:
        again = inference.head(reordered(blobs, 3))
        assert again is not None
        assert torch.equal(again.weight, head.weight)


@pytest.mark.parametrize("space", ["features", "logits", "gradients"])
@pytest.mark.parametrize("name", ["hdbscan", "kmeans"], ids=str)
def test_a_space_that_can_be_chosen_has_its_head(name, space, blobs):
    inference = make_inference(name, {"space": space})
    assert inference.space == space
    assert (inference.head(blobs) is None) == (space == "features")
