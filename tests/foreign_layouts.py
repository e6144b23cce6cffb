"""Writes checkpoints as other people's programs write them, for tests.

Only what their files show is reproduced: the trees of modules, the names of attributes and of pickled classes, the
order of operations. The classes stand at the top level of this file under the names they are pickled by, so that
torch finds their source text, which it embeds in legacy files.
"""

import copy
import json
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, Bottleneck

WORDS = ("a", "red", "dog", "runs", "on", "grass", "ü", "t-shirt", "man's", "two", "children", "in", "snow")
_BLOCKS = (BasicBlock, Bottleneck)


class Spoken(NamedTuple):
    """What a decoder says of given captions: annotation vectors (B, L, D), alphas (B, T, L), log-probs (B, T, V)."""

    annotations: Tensor
    alphas: Tensor
    log_probs: Tensor


class Encoder(nn.Module):
    """The tutorial's encoder: a ResNet without its last two children, pooled to 14 x 14, channels last."""

    def __init__(self, depth: int = 18) -> None:
        super().__init__()
        self.enc_image_size = 14
        self.resnet = nn.Sequential(*list(get_model(f"resnet{depth}", weights=None).children())[:-2])
        self.adaptive_pool = nn.AdaptiveAvgPool2d((14, 14))

    def forward(self, images: Tensor) -> Tensor:
        return self.adaptive_pool(self.resnet(images)).permute(0, 2, 3, 1).flatten(1, 2)


class Attention(nn.Module):
    """The tutorial's attention: additive, with ReLU."""

    def __init__(self, encoder_dim: int, decoder_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.relu = nn.ReLU()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, annotations: Tensor, hidden: Tensor) -> Tensor:
        mixed = self.relu(self.encoder_att(annotations) + self.decoder_att(hidden).unsqueeze(1))
        return self.softmax(self.full_att(mixed).squeeze(2))


class DecoderWithAttention(nn.Module):
    """The tutorial's decoder: linear initial state, a gate on every channel of the context, one output layer."""

    def __init__(
        self, vocabulary_size: int, encoder_dim: int, attention_dim: int, embed_dim: int, decoder_dim: int
    ):
        super().__init__()
        self.encoder_dim = encoder_dim
        self.attention_dim = attention_dim
        self.embed_dim = embed_dim
        self.decoder_dim = decoder_dim
        self.vocab_size = vocabulary_size
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim)
        self.embedding = nn.Embedding(vocabulary_size, embed_dim)
        self.dropout = nn.Dropout(p=0.5)
        self.decode_step = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        self.sigmoid = nn.Sigmoid()
        self.fc = nn.Linear(decoder_dim, vocabulary_size)

    def forward(self, annotations: Tensor, token_ids: Tensor, start: int) -> Spoken:
        mean = annotations.mean(dim=1)
        hidden, cell = self.init_h(mean), self.init_c(mean)
        said = torch.full_like(token_ids[:, 0], start)
        alphas, log_probs = [], []
        for t in range(token_ids.shape[1]):
            alpha = self.attention(annotations, hidden)
            context = self.sigmoid(self.f_beta(hidden)) * (annotations * alpha.unsqueeze(2)).sum(dim=1)
            hidden, cell = self.decode_step(torch.cat([self.embedding(said), context], 1), (hidden, cell))
            log_probs.append(torch.log_softmax(self.fc(self.dropout(hidden)), dim=1))
            alphas.append(alpha)
            said = token_ids[:, t]
        return Spoken(annotations, torch.stack(alphas, 1), torch.stack(log_probs, 1))


class BotEncoder(nn.Module):
    """mrFahrenhiet's encoder: a ResNet without its last two children, its own grid."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.resnet = nn.Sequential(*list(get_model(f"resnet{depth}", weights=None).children())[:-2])

    def forward(self, images: Tensor) -> Tensor:
        return self.resnet(images).permute(0, 2, 3, 1).flatten(1, 2)


class BotAttention(nn.Module):
    """mrFahrenhiet's attention: additive, with tanh."""

    def __init__(self, encoder_dim: int, decoder_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.U = nn.Linear(encoder_dim, attention_dim)
        self.W = nn.Linear(decoder_dim, attention_dim)
        self.A = nn.Linear(attention_dim, 1)

    def forward(self, annotations: Tensor, hidden: Tensor) -> Tensor:
        mixed = torch.tanh(self.U(annotations) + self.W(hidden).unsqueeze(1))
        return torch.softmax(self.A(mixed).squeeze(2), dim=1)


class BotDecoder(nn.Module):
    """mrFahrenhiet's decoder: no gate, and a second output layer that nothing uses."""

    def __init__(
        self, vocabulary_size: int, encoder_dim: int, attention_dim: int, embed_dim: int, decoder_dim: int
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embed_dim)
        self.attention = BotAttention(encoder_dim, decoder_dim, attention_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.lstm = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.fcn1 = nn.Linear(decoder_dim, vocabulary_size)
        self.fcn2 = nn.Linear(7, vocabulary_size)
        self.drop = nn.Dropout(0.3)

    def forward(self, annotations: Tensor, token_ids: Tensor, start: int) -> Spoken:
        mean = annotations.mean(dim=1)
        hidden, cell = self.init_h(mean), self.init_c(mean)
        said = torch.full_like(token_ids[:, 0], start)
        alphas, log_probs = [], []
        for t in range(token_ids.shape[1]):
            alpha = self.attention(annotations, hidden)
            context = (annotations * alpha.unsqueeze(2)).sum(dim=1)
            hidden, cell = self.lstm(torch.cat([self.embedding(said), context], 1), (hidden, cell))
            log_probs.append(torch.log_softmax(self.drop(self.fcn1(hidden)), dim=1))
            alphas.append(alpha)
            said = token_ids[:, t]
        return Spoken(annotations, torch.stack(alphas, 1), torch.stack(log_probs, 1))


class Bot(nn.Module):
    """mrFahrenhiet's model: the names of its two parts are those of their classes."""

    def __init__(self, vocabulary_size: int, depth: int) -> None:
        super().__init__()
        self.EncoderCNN = BotEncoder(depth)
        encoder_dim = 512 if depth < 50 else 2048
        self.DecoderLSTM = BotDecoder(vocabulary_size, encoder_dim, 9, 11, 13)


class Vocabulary:
    """mrFahrenhiet's vocabulary: four special tokens, then words, in both directions."""

    def __init__(self, words: Iterable[str], freq_threshold: int = 5) -> None:
        self.freq_threshold = freq_threshold
        self.itos = dict(enumerate(("<PAD>", "<SOS>", "<EOS>", "<UNK>", *words)))
        self.stoi = {word: token_id for token_id, word in self.itos.items()}


class _OldBackend:
    """What modules of torch 0.4 to 1.2 keep as `_backend`: pickled as a call of one function."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _get_thnn_function_backend, ()


def _get_thnn_function_backend() -> None:
    pass


def word_map(words: Iterable[str] = WORDS) -> dict[str, int]:
    """The tutorial's word map: words from 1, then `<unk>`, `<start>`, `<end>`; `<pad>` is 0 and comes last."""
    listed = {word: token_id for token_id, word in enumerate(words, start=1)}
    for special in ("<unk>", "<start>", "<end>"):
        listed[special] = len(listed) + 1
    return listed | {"<pad>": 0}


def write_word_map(folder: Path, base: str = "toy", *, words: dict[str, Any] | None = None) -> Path:
    path = folder / f"WORDMAP_{base}.json"
    path.write_text(json.dumps(word_map() if words is None else words))
    return path


def make_tutorial(depth: int = 18, *, seed: int = 0) -> tuple[Encoder, DecoderWithAttention]:
    """A small tutorial model with trained-looking batch norms, in eval mode."""
    torch.manual_seed(seed)
    encoder = Encoder(depth)
    decoder = DecoderWithAttention(len(word_map()), 512 if depth < 50 else 2048, 9, 11, 13)
    with_statistics(encoder)
    sharpen(decoder.attention.full_att, decoder.fc)
    return encoder.eval(), decoder.eval()


def make_bot(depth: int = 18, *, seed: int = 0) -> Bot:
    torch.manual_seed(seed)
    bot = Bot(len(WORDS) + 4, depth)
    with_statistics(bot.EncoderCNN)
    sharpen(bot.DecoderLSTM.attention.A, bot.DecoderLSTM.fcn1)
    return bot.eval()


@torch.no_grad()
def sharpen(*layers: nn.Linear) -> None:
    """Makes attention and words decided, as training does; random ones are all alike."""
    for layer in layers:
        layer.weight.mul_(16)


@torch.no_grad()
def with_statistics(encoder: nn.Module) -> None:
    """Gives the batch norms statistics of their own inputs and scales of their own, so that none can be swapped.

    The branches of the residual blocks stay weak, as in trained networks; a random one of 152 layers would amplify
    rounding errors a thousandfold.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    ends = {
        id(b.bn3 if isinstance(b, Bottleneck) else b.bn2) for b in encoder.modules() if isinstance(b, _BLOCKS)
    }
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.2, 0.2)
        if id(norm) in ends:
            norm.weight.mul_(0.2)
    encoder.train()(torch.randn(2, 3, 96, 96))
    for norm in norms:
        norm.momentum = 0.1


def stepped_adam(parameters: Iterable[nn.Parameter], rate: float = 4e-4) -> torch.optim.Adam:
    """An Adam that took a step, with a state for every parameter; the parameters stay as they were."""
    listed = list(parameters)
    optimizer = torch.optim.Adam(listed, lr=0.0)
    for parameter in listed:
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = rate
    return optimizer


def tutorial_checkpoint(encoder: Any, decoder: Any) -> dict[str, Any]:
    """The seven keys of the tutorial's file; the encoder was fine-tuned a little."""
    return {
        "epoch": 7,
        "epochs_since_improvement": 2,
        "bleu-4": 0.2329,
        "encoder": encoder,
        "decoder": decoder,
        "encoder_optimizer": stepped_adam(_first(encoder).resnet[7][1].bn2.parameters(), 1e-4),
        "decoder_optimizer": stepped_adam(decoder.parameters()),
    }


def bot_checkpoint(bot: Bot) -> dict[str, Any]:
    """The seven keys of mrFahrenhiet's file; the key of the optimizer promises a state dict, but it is the object."""
    optimizer = stepped_adam(bot.DecoderLSTM.parameters())
    return {
        "num_epochs": 25,
        "vocab": Vocabulary(WORDS),
        "vocab_size": len(WORDS) + 4,
        "state_dict": bot.state_dict(),
        "optimizer_denoise_state_dict": optimizer,
        "training_loss": 2.5,
        "val_loss": 3.1,
    }


def _first(module: Any) -> Any:
    return module.module if isinstance(module, nn.DataParallel) else module


@contextmanager
def pickled_under(module: str, *members: Any) -> Iterator[None]:
    """Has classes and functions pickled as members of a module that need not exist."""
    stand_in = types.ModuleType(module)
    stand_in.__file__ = __file__  # where torch looks for the source text of a class
    homes = [member.__module__ for member in members]
    for member in members:
        setattr(stand_in, member.__name__, member)
        member.__module__ = module
    try:
        with mock.patch.dict(sys.modules, {module: stand_in}):
            yield
    finally:
        for member, home in zip(members, homes, strict=True):
            member.__module__ = home


def save(
    checkpoint: Any,
    path: Path,
    *,
    module: str = "models",
    legacy: bool = False,
    protocol: int = 2,
    location: str = "cpu",
) -> Path:
    """torch.save, with our classes under the name of an author's module.

    `location` is the device that the file says its storages were on.
    """
    with (
        pickled_under(module, Encoder, Attention, DecoderWithAttention, Vocabulary),
        pickled_under("torch.nn.backends.thnn", _get_thnn_function_backend),
        mock.patch.object(torch.serialization, "location_tag", return_value=location),
    ):
        torch.save(checkpoint, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return path


def edit_pickle(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Changes the pickle inside a file of torch.save; in a legacy one, the bytes before the raw numbers."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, edit(content) if name.endswith("data.pkl") else content)
        return path
    content = path.read_bytes()
    middle = content.index(b"\x80\x02]q\x00(X", 100)  # the list of storage keys, the last of the pickles
    path.write_bytes(edit(content[:middle]) + content[middle:])
    return path


def in_old_torch(module: nn.Module) -> nn.Module:
    """A module with the attributes that torch 0.4.0 gave it: a backend, no batch counters, no later inventions."""
    for part in module.modules():
        kept = {
            "_parameters",
            "_buffers",
            "_backward_hooks",
            "_forward_hooks",
            "_forward_pre_hooks",
            "_modules",
        }
        for name in [name for name in vars(part) if name.startswith("_") and name not in kept]:
            del vars(part)[name]
        vars(part).pop("padding_mode", None)
        for name in ("_parameters", "_buffers", "_modules"):
            vars(part)[name] = OrderedDict(vars(part)[name])
        part._buffers.pop("num_batches_tracked", None)
        part._backend = _OldBackend()
    return module


def in_old_layout(decoder: DecoderWithAttention) -> DecoderWithAttention:
    """The tutorial's decoder of before August 2018, which passed a number of layers as the LSTM cell's `bias`."""
    decoder.decoder_layers = 1
    decoder.decode_step.bias = 1
    return decoder


def on_two_gpus(module: nn.Module) -> nn.DataParallel:
    """A module as nn.DataParallel wraps it on a machine with GPUs."""
    wrapped = nn.DataParallel.__new__(nn.DataParallel)
    nn.Module.__init__(wrapped)
    wrapped.dim, wrapped.module, wrapped.device_ids, wrapped.output_device = 0, module, [0, 1], 0
    wrapped.src_device_obj = torch.device("cuda:0")
    return wrapped


def states(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def with_torchvision_names(state: dict[str, Tensor], prefix: str = "resnet.") -> dict[str, Tensor]:
    """The encoder's state dict of a fork that kept torchvision's network whole but for its classifier."""
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    renamed = {}
    for name, tensor in state.items():
        number, _, rest = name.removeprefix(prefix).partition(".")
        renamed[f"{prefix}{names[number]}.{rest}"] = tensor
    return renamed


@dataclass(frozen=True)
class Variant:
    """One way in which the tutorial's model comes in a file."""

    arrange: Callable[[Any, Any], Any] = tutorial_checkpoint
    """What is saved, of an encoder and a decoder."""
    module: str = "models"
    legacy: bool = False
    protocol: int = 2
    location: str = "cpu"
    dtype: torch.dtype = torch.float32
    edit: Callable[[bytes], bytes] | None = None

    def write(self, encoder: Encoder, decoder: DecoderWithAttention, path: Path) -> Path:
        """Writes the checkpoint; the models themselves stay as they are."""
        encoder, decoder = (copy.deepcopy(part).to(self.dtype) for part in (encoder, decoder))
        checkpoint = self.arrange(encoder, decoder)
        save(
            checkpoint,
            path,
            module=self.module,
            legacy=self.legacy,
            protocol=self.protocol,
            location=self.location,
        )
        return path if self.edit is None else edit_pickle(path, self.edit)


def _as_state_dicts(encoder: Encoder, decoder: DecoderWithAttention) -> dict[str, Any]:
    whole = tutorial_checkpoint(encoder, decoder)
    return {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in whole.items()}


def _cuda_storages(pickle: bytes) -> bytes:
    return pickle.replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")


TUTORIAL: dict[str, Variant] = {
    "zip": Variant(),
    "legacy": Variant(legacy=True),
    "zip of protocol 4": Variant(protocol=4),
    "legacy of protocol 4": Variant(legacy=True, protocol=4),
    "legacy, decoder of before August 2018": Variant(
        lambda e, d: tutorial_checkpoint(e, in_old_layout(d)), legacy=True
    ),
    "zip, decoder of before August 2018": Variant(lambda e, d: tutorial_checkpoint(e, in_old_layout(d))),
    "legacy of torch 0.4.0": Variant(
        lambda e, d: {
            name: in_old_torch(part) if isinstance(part, nn.Module) else part
            for name, part in tutorial_checkpoint(e, in_old_layout(d)).items()
        },
        legacy=True,
    ),
    "zip from a GPU": Variant(location="cuda:0"),
    "legacy from a GPU": Variant(location="cuda:0", legacy=True),
    "legacy with storages of CUDA types": Variant(location="cuda:1", legacy=True, edit=_cuda_storages),
    "float16": Variant(dtype=torch.float16),
    "bfloat16": Variant(dtype=torch.bfloat16),
    "legacy float16": Variant(dtype=torch.float16, legacy=True),
    "classes of a notebook": Variant(module="__main__"),
    "classes of another module": Variant(module="model", legacy=True),
    "encoder never trained": Variant(lambda e, d: tutorial_checkpoint(e, d) | {"encoder_optimizer": None}),
    "score of numpy": Variant(lambda e, d: tutorial_checkpoint(e, d) | {"bleu-4": np.float64(0.2329)}),
    "state dicts": Variant(_as_state_dicts),
    "legacy state dicts": Variant(_as_state_dicts, legacy=True),
    "state dicts under longer names": Variant(
        lambda e, d: {"epoch": 7, "encoder_state_dict": states(e), "decoder_state_dict": states(d)}
    ),
    "state dicts one level down": Variant(
        lambda e, d: {"epoch": 7, "state": {"encoder": states(e), "decoder": states(d)}}
    ),
    "one state dict": Variant(lambda e, d: states(e, "encoder.") | states(d, "decoder.")),
    "one state dict one level down": Variant(
        lambda e, d: {"epoch": 7, "state_dict": states(e, "encoder.") | states(d, "decoder.")}
    ),
    "state dicts of DataParallel": Variant(
        lambda e, d: {"encoder": states(e, "module."), "decoder": states(d, "module.")}
    ),
    "one state dict of DataParallel": Variant(
        lambda e, d: states(e, "module.encoder.") | states(d, "module.decoder.")
    ),
    "objects in DataParallel": Variant(
        lambda e, d: tutorial_checkpoint(e, d) | {"encoder": on_two_gpus(e), "decoder": on_two_gpus(d)},
        location="cuda:0",
    ),
    "decoder in float64": Variant(lambda e, d: {"encoder": states(e), "decoder": states(d.double())}),
    "encoder with torchvision's names": Variant(
        lambda e, d: {"encoder": with_torchvision_names(states(e)), "decoder": states(d)}
    ),
}
"""The tutorial's checkpoint in every form we know of."""
