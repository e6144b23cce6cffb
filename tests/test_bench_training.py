"""Training: the loss, its bookkeeping, and that a model really learns."""

import dataclasses

import pytest
import torch

from bench.data.base import CaptionData, CaptionedImage, DataError
from bench.data.scenes import SceneTruth, make_scene
from bench.errors import ConfigError
from bench.training import PRESETS, _caption_loss, _loss, _read, build_captioner, train
from models.formats import load_checkpoint
from models.vocabulary import Vocabulary, split_words


def few_scenes(train_images=48, val_images=8):
    images = [make_scene("train", i) for i in range(train_images)] + [
        make_scene("val", i) for i in range(val_images)
    ]
    return CaptionData("few scenes", tuple(images), split_origin="given", ground_truth=SceneTruth())


def tiny(**changes):
    return dataclasses.replace(PRESETS["scenes"], epochs=2, batch_size=16, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "tiny.safetensors"
    return train(tiny(), few_scenes(), path, preset="scenes"), path


def test_the_loss_falls_and_the_checkpoint_says_how_it_was_trained(trained):
    _, path = trained
    training = load_checkpoint(path).training
    first, last = training["history"][0], training["history"][-1]
    assert last["loss"] < first["loss"]
    assert training["preset"] == "scenes"
    assert training["data"] == "few scenes"
    assert training["seed"] == 0


def test_the_file_holds_the_weights_that_training_returned(trained):
    captioner, path = trained
    loaded = load_checkpoint(path).captioner
    for name, tensor in captioner.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, tmp_path):
    again = train(tiny(), few_scenes(), tmp_path / "again.safetensors", preset="scenes")
    other = train(tiny(seed=1), few_scenes(), tmp_path / "other.safetensors", preset="scenes")
    weights = [c.decoder.output.weight for c in (trained[0], again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_no_padding_in_the_loss():
    vocabulary = Vocabulary.from_captions([["a", "b", "c"]])
    captioner = build_captioner(PRESETS["scenes"], vocabulary).eval()
    annotations = torch.randn(2, 9, 80)
    short, long = [4, 2], [5, 6, 4, 2]
    padded = torch.tensor([[*short, 0, 0], long])
    with torch.no_grad():
        loss = _caption_loss(captioner, annotations, padded, 0.0)
        literal = 0.0
        for row, words in enumerate((short, long)):
            log_probs = captioner.decoder(
                annotations[row : row + 1], torch.tensor([words]), vocabulary.start
            ).log_probs
            literal -= sum(float(log_probs[0, t, word]) for t, word in enumerate(words))
    assert float(loss) == pytest.approx(literal / 6, rel=1e-5)


def test_the_doubly_stochastic_term_is_the_mean_square_of_one_minus_the_attention_of_the_words_said():
    vocabulary = Vocabulary.from_captions([["a", "b"]])
    captioner = build_captioner(PRESETS["scenes"], vocabulary).eval()
    annotations, words = torch.randn(1, 9, 80), torch.tensor([[4, 5, 2, 0]])
    with torch.no_grad():
        alphas = captioner.decoder(annotations, words, vocabulary.start).alphas[0, :3].double()
        plain, regularised = (_caption_loss(captioner, annotations, words, weight) for weight in (0.0, 0.5))
    term = sum((1 - float(alphas[:, cell].sum())) ** 2 for cell in range(9)) / 9
    assert float(regularised - plain) == pytest.approx(0.5 * term, rel=1e-4)


def test_photographs_are_encoded_once_for_all_their_captions(tmp_path):
    config = dataclasses.replace(PRESETS["photos-small"], epochs=1, batch_size=8, min_count=1)
    config = dataclasses.replace(
        config, preprocessing=dataclasses.replace(config.preprocessing, size=64), grid=2
    )
    shapes = []
    images = [make_scene("train", i) for i in range(4)]
    vocabulary = Vocabulary.from_captions(split_words(r) for image in images for r in image.references)
    captioner = build_captioner(config, vocabulary)
    captioner.encoder.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[0]))
    examples = _read(images, config, vocabulary, "reading")
    _loss(captioner, examples, torch.arange(4), config, torch.Generator().manual_seed(0)).backward()
    assert shapes == [4]


def test_unreadable_pictures_are_left_out_and_said(tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    broken = CaptionedImage("broken.jpg", ("a red circle",), "train", tmp_path / "broken.jpg")
    data = few_scenes(16, 4)
    data = dataclasses.replace(data, images=(broken, *data.images))
    train(dataclasses.replace(tiny(), epochs=1), data, tmp_path / "model.safetensors", preset="scenes")
    assert "left out: 'broken.jpg' is not a picture" in capsys.readouterr().err


def test_nothing_to_train_on_is_an_error(tmp_path):
    broken = [
        CaptionedImage(f"{split}.jpg", ("a",), split, tmp_path / "none.jpg") for split in ("train", "val")
    ]
    with pytest.raises(DataError, match="nothing to train on"):
        train(tiny(), CaptionData("d", tuple(broken), "given"), tmp_path / "m.safetensors", preset="scenes")
    assert not (tmp_path / "m.safetensors").exists()


def test_training_that_diverges_says_so(tmp_path):
    with pytest.raises(ConfigError, match="training diverged in epoch 1"):
        train(tiny(learning_rate=1e18), few_scenes(32, 4), tmp_path / "m.safetensors", preset="scenes")
    assert not (tmp_path / "m.safetensors").exists()


def test_training_starts_from_a_file_of_weights_and_keeps_its_folder_to_itself(tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(1)
    network = get_model("resnet18", weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    config = dataclasses.replace(
        PRESETS["photos-small"], epochs=1, learning_rate=1e-9, min_count=1, weight_decay=0.0,
        encoder_weights=str(tmp_path / "weights.pth"),
        preprocessing=dataclasses.replace(PRESETS["photos-small"].preprocessing, size=64),
    )  # fmt: skip
    out = tmp_path / "model.safetensors"
    captioner = train(config, few_scenes(8, 2), out, preset="photos-small")
    torch.testing.assert_close(captioner.encoder.trunk[0].weight, network.conv1.weight, atol=1e-6, rtol=0)
    assert load_checkpoint(out).training["encoder_weights"] == "weights.pth"
