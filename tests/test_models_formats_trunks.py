"""Which ResNet a file holds is read off the shapes of its tensors."""

import re

import pytest
import torch

from models.encoder import ENCODERS, EncoderConfig, build_encoder
from models.errors import CheckpointError
from models.formats.assembly import Uninitialised
from models.formats.content import StoredTensor
from models.formats.trunks import find_trunk

RESNETS = [name for name in ENCODERS if "resne" in name]


def stored(tensors):
    return {
        name: StoredTensor(tuple(tensor.shape), "float32", "cpu", lambda: pytest.fail("nothing is read"))
        for name, tensor in tensors.items()
    }


def torchvision_names(name, prefix=""):
    from torchvision.models import get_model

    with torch.device("meta"), Uninitialised():
        return stored({prefix + key: tensor for key, tensor in get_model(name).state_dict().items()})


@pytest.mark.parametrize("name", RESNETS)
def test_every_resnet_is_known_by_its_shapes_under_torchvisions_names_and_by_position(name):
    with torch.device("meta"), Uninitialised():
        ours = build_encoder(EncoderConfig(name, 14)).state_dict()
    whole = torchvision_names(name, "encoder.module.resnet.")
    found, tensors = find_trunk("file", whole)
    assert found == name
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in ours.items()
    }
    by_position = {re.sub(r"^trunk\.", "resnet.", key): tensor for key, tensor in tensors.items()}
    assert find_trunk("file", by_position) == (name, tensors)


def test_a_file_without_a_resnet_has_no_trunk():
    assert (
        find_trunk(
            "file", stored({"decoder.weight": torch.zeros(3, 3), "0.weight": torch.zeros(64, 3, 3, 3)})
        )
        is None
    )


def test_two_trunks_are_refused():
    both = torchvision_names("resnet18", "a.") | torchvision_names("resnet18", "b.")
    with pytest.raises(CheckpointError, match="holds 2 ResNets"):
        find_trunk("file", both)


def test_a_depth_that_torchvision_does_not_have_is_refused_with_its_blocks():
    cut = {key: t for key, t in torchvision_names("resnet50").items() if not key.startswith("layer3.5.")}
    with pytest.raises(CheckpointError, match=r"a ResNet with \(3, 4, 5, 3\) blocks"):
        find_trunk("file", cut)


def test_missing_stages_are_no_crash():
    with pytest.raises(CheckpointError, match=r"\(0, 0, 0, 0\) blocks"):
        find_trunk("file", stored({"conv1.weight": torch.zeros(64, 3, 7, 7)}))
