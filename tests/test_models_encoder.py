"""Encoders by name, and the weights that they start from."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.encoder import ENCODERS, EncoderConfig, build_encoder, load_trunk
from models.errors import CheckpointError


@pytest.fixture(scope="module")
def resnet18():
    from torchvision.models import get_model

    torch.manual_seed(0)
    return get_model("resnet18", weights=None)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_gives_vectors_of_the_length_it_names_on_the_grid_it_was_asked_for(name):
    with torch.device("meta"):  # shapes without numbers
        encoder = build_encoder(EncoderConfig(name, 14)).to("meta")
        assert encoder(torch.empty(2, 3, 224, 224)).shape == (2, encoder.annotation_dim, 14, 14)


def test_an_unknown_encoder_is_named_with_those_that_there_are():
    with pytest.raises(
        CheckpointError, match="there is no encoder 'resnet19'; known encoders: scenes, resnet18"
    ):
        build_encoder(EncoderConfig("resnet19"))


@pytest.mark.parametrize("write", [save_file, torch.save])
def test_a_file_of_torchvision_weights_fills_the_trunk(resnet18, write, tmp_path):
    path = tmp_path / "weights"
    write(resnet18.state_dict(), path)
    encoder = build_encoder(EncoderConfig("resnet18", 2), weights=str(path)).eval()
    images = torch.randn(2, 3, 64, 64)
    body = nn.Sequential(*list(resnet18.eval().children())[:-2])
    torch.testing.assert_close(encoder(images), body(images), atol=0, rtol=0)


def test_vgg_weights_fill_the_layers_before_the_last_pooling():
    from torchvision.models import get_model

    with torch.device("meta"):
        tensors = {
            name: torch.full(tensor.shape, float(number), device="cpu")
            for number, (name, tensor) in enumerate(get_model("vgg19").state_dict().items())
        }
    encoder = build_encoder(EncoderConfig("vgg19", 14))
    load_trunk(encoder, tensors)
    assert all(torch.equal(t, tensors[f"features.{n}"]) for n, t in encoder.trunk.state_dict().items())


def test_files_older_than_the_counters_of_batch_normalisation_are_read(resnet18):
    old = {n: t for n, t in resnet18.state_dict().items() if not n.endswith("num_batches_tracked")}
    encoder = build_encoder(EncoderConfig("resnet18", 2))
    load_trunk(encoder, old)
    assert torch.equal(encoder.trunk[0].weight, resnet18.conv1.weight)
    assert torch.equal(encoder.trunk[7][1].bn2.running_var, resnet18.layer4[1].bn2.running_var)


def test_weights_of_another_depth_are_refused_and_both_are_named(resnet18):
    encoder = build_encoder(EncoderConfig("resnet34", 2))
    before = encoder.trunk[0].weight.clone()
    with pytest.raises(CheckpointError, match="are those of resnet18, but the model's encoder is resnet34"):
        load_trunk(encoder, resnet18.state_dict())
    assert torch.equal(encoder.trunk[0].weight, before)


def test_weights_of_no_known_network_are_refused(resnet18):
    with pytest.raises(
        CheckpointError, match="none of the known encoders, but the model's encoder is resnet18"
    ):
        load_trunk(build_encoder(EncoderConfig("resnet18", 2)), {"fc.weight": torch.zeros(2, 2)})


def test_weights_that_neither_torchvision_nor_the_disk_has_are_named():
    with pytest.raises(
        CheckpointError, match=r"no weights 'mine.pth' of resnet18.*torchvision has IMAGENET1K_V1"
    ):
        build_encoder(EncoderConfig("resnet18"), weights="mine.pth")


def test_a_download_that_fails_ends_in_a_sentence_that_names_the_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port, where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(CheckpointError, match=r"could not be downloaded.*--encoder-weights FILE"):
        build_encoder(EncoderConfig("resnet18"), weights="IMAGENET1K_V1")
    capsys.readouterr()


def test_the_scene_encoder_takes_no_weights(resnet18, tmp_path):
    with pytest.raises(CheckpointError, match="scene encoder has no published weights"):
        build_encoder(EncoderConfig("scenes"), weights="IMAGENET1K_V1")
    save_file(resnet18.state_dict(), tmp_path / "weights")
    with pytest.raises(CheckpointError, match="scene encoder has no published weights"):
        build_encoder(EncoderConfig("scenes"), weights=str(tmp_path / "weights"))
