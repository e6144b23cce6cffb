"""The attention LSTM decoder of Show, Attend and Tell (Xu et al. 2015, arXiv:1502.03044), and its known variants.

There is ONE `step`. Beam search and explanations call it, and training calls the two parts that it consists of, so what
is explained is what decodes and what was trained.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.layers import Linear, LSTMCell, tanh_


@dataclass(frozen=True)
class DecoderConfig:
    """The switchboard: every decoder of the Show-Attend-Tell family is one setting of these fields."""

    vocabulary_size: int
    """V, rows of the output layer."""
    annotation_dim: int
    """D, length of an annotation vector."""
    embedding_dim: int = 512
    """Length of a word embedding."""
    hidden_dim: int = 512
    """Length of the LSTM's hidden state."""
    attention_dim: int = 512
    """Width of the attention network's hidden layer."""
    attention_activation: Literal["tanh", "relu"] = "tanh"
    """Nonlinearity of the attention network: tanh in the paper, ReLU in the PyTorch tutorial."""
    initial_state: Literal["zero", "linear", "tanh"] = "tanh"
    """First LSTM state: zero, or a linear map of the mean annotation vector, plain or through tanh."""
    attention: Literal["soft", "uniform"] = "soft"
    """Soft attention (paper §4.2), or, as a control, the same weight on every cell."""
    gate: Literal["none", "scalar", "vector", "shut"] = "scalar"
    """Gate beta on the context (paper §4.2.1): absent, one number, one number per channel, or, as a control, always 0:
    then attention is computed and nothing reads it."""
    output: Literal["plain", "deep"] = "plain"
    """Word scores from the hidden state alone, or the paper's deep output layer (eq. 7)."""
    first_input: Literal["start", "zeros"] = "start"
    """What step 0 reads: the embedding of `<start>`, or zeros as in the paper's program."""
    dropout: float = 0.5
    """Share of the hidden units that training drops before the output layer, 0 to 1."""
    initial_layers: int = 1
    """Layers between the mean annotation vector and the first state; all but the last are as wide as an annotation
    vector and followed by ReLU and dropout. 2 in the paper's program on COCO."""
    attention_layers: int = 1
    """Layers between an annotation vector and the sum with the state's query; all but the first are as wide as the
    attention network and followed by tanh, whatever `attention_activation` is. 2 in the paper's program on COCO."""


class Memory(NamedTuple):
    """What attention looks at; computed once per image."""

    annotations: Float[Tensor, "image cells dim"]
    projected: Float[Tensor, "image cells attention"]


class State(NamedTuple):
    """The LSTM's state between two steps."""

    hidden: Float[Tensor, "batch hidden"]
    cell: Float[Tensor, "batch hidden"]


class Step(NamedTuple):
    """What one step yields."""

    log_probs: Float[Tensor, "batch vocabulary"]
    """Natural logarithms of the next word's probabilities."""
    state: State
    alpha: Float[Tensor, "batch cells"]
    """Attention over the grid; non-negative, sums to 1."""


class Advanced(NamedTuple):
    """What one step yields before it scores words."""

    state: State
    context: Float[Tensor, "batch dim"]
    """What was seen, behind the gate."""
    alpha: Float[Tensor, "batch cells"]
    """Attention over the grid; non-negative, sums to 1."""


class TeacherForced(NamedTuple):
    """What the decoder says of given captions, step by step."""

    log_probs: Float[Tensor, "batch step vocabulary"]
    alphas: Float[Tensor, "batch step cells"]


class AttentionDecoder(nn.Module):
    """Soft attention over annotation vectors, an LSTM, and an output layer.

    Deviation from eq. 7 where `output` is "deep": tanh and dropout stand before the last matrix, as in the
    program that produced the paper's results (kelvinxu/arctic-captions); eq. 7 shows neither.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embedding = nn.Embedding(c.vocabulary_size, c.embedding_dim)
        self.annotation_projection = Linear(c.annotation_dim, c.attention_dim)
        self.hidden_projection = Linear(c.hidden_dim, c.attention_dim)
        self.attention_score = nn.Linear(c.attention_dim, 1)
        self.lstm = LSTMCell(c.embedding_dim + c.annotation_dim, c.hidden_dim)
        if c.initial_state != "zero":
            self.initial_hidden = nn.Linear(c.annotation_dim, c.hidden_dim)
            self.initial_cell = nn.Linear(c.annotation_dim, c.hidden_dim)
            self.initial_layers = _layers(c.initial_layers - 1, c.annotation_dim)
        self.attention_layers = _layers(c.attention_layers - 1, c.attention_dim)
        if c.gate in ("scalar", "vector"):
            self.gate = Linear(c.hidden_dim, 1 if c.gate == "scalar" else c.annotation_dim)
        if c.output == "deep":
            self.output_hidden = nn.Linear(c.hidden_dim, c.embedding_dim)
            self.output_context = nn.Linear(c.annotation_dim, c.embedding_dim)
        self.output = Linear(c.hidden_dim if c.output == "plain" else c.embedding_dim, c.vocabulary_size)
        self.dropout = nn.Dropout(c.dropout)

    def remember(self, annotations: Float[Tensor, "batch cells dim"]) -> Memory:
        """Projects the annotation vectors for attention; needed once per image, not once per step."""
        projected = self.annotation_projection(annotations)
        for layer in self.attention_layers:
            projected = torch.tanh(layer(projected))
        return Memory(annotations, projected)

    def initial_state(self, annotations: Float[Tensor, "batch cells dim"]) -> State:
        """The state before the first word (paper §3.1.2)."""
        if self.config.initial_state == "zero":
            zeros = annotations.new_zeros(annotations.shape[0], self.config.hidden_dim)
            return State(zeros, zeros)
        mean = annotations.mean(dim=1)  # (B, L, D) -> (B, D)
        for layer in self.initial_layers:
            mean = self.dropout(torch.relu(layer(mean)))
        hidden, cell = self.initial_hidden(mean), self.initial_cell(mean)
        return (
            State(hidden.tanh(), cell.tanh()) if self.config.initial_state == "tanh" else State(hidden, cell)
        )

    def step(
        self,
        word_ids: Int[Tensor, " batch"] | None,
        state: State,
        memory: Memory,
        *,
        alpha: Float[Tensor, "batch cells"] | None = None,
    ) -> Step:
        """Reads one word and scores the next.

        Args:
            word_ids: the previous word of each row; None at the first step.
            state: what the last step, or `initial_state`, returned.
            memory: what `remember` returned: one row per row of `state`, or fewer; then each serves as many
                consecutive rows as all the others (the beams of its image), without being copied.
            alpha: where to look, whatever `attend` says; None to look there.

        Returns:
            Scores of the next word, the new state, and where this step looked (eq. 4-6 for alpha, eq. 13 for
            the context, eq. 1-3 for the LSTM, eq. 7 for the word).
        """
        embedded = self.embed(word_ids, state)
        state, context, alpha = self.advance(embedded, state, memory, alpha=alpha)
        return Step(torch.log_softmax(self.score(embedded, state.hidden, context), dim=1), state, alpha)

    def embed(self, word_ids: Int[Tensor, " batch"] | None, state: State) -> Float[Tensor, "batch embedding"]:
        """What the step after `state` reads: the words' embeddings, or zeros where there are none yet."""
        if word_ids is None:
            return state.hidden.new_zeros(len(state.hidden), self.config.embedding_dim)
        embedded: Tensor = self.embedding(word_ids)
        return embedded

    def advance(
        self,
        embedded: Float[Tensor, "batch embedding"],
        state: State,
        memory: Memory,
        *,
        alpha: Float[Tensor, "batch cells"] | None = None,
    ) -> Advanced:
        """The part of `step` that the next step waits for: looks, and takes in what was read and seen."""
        if alpha is None:
            alpha = self.attend(state, memory)
        context = self._context(alpha, memory)
        beta = self.gate_values(state)
        if beta is not None:
            context = beta * context
        return Advanced(self._next(embedded, context, state), context, alpha)

    def score(
        self,
        embedded: Float[Tensor, "batch embedding"],
        hidden: Float[Tensor, "batch hidden"],
        context: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, "batch vocabulary"]:
        """The part of `step` that no other step waits for: every word's score, to be normalised by a softmax.

        Args:
            embedded: what the step read.
            hidden: the state that it left.
            context: what it saw.

        Returns:
            Logits.
        """
        scores: Tensor = self.output(self.features(embedded, hidden, context))
        return scores

    def features(
        self,
        embedded: Float[Tensor, "batch embedding"],
        hidden: Float[Tensor, "batch hidden"],
        context: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, "batch features"]:
        """What the last matrix turns into word scores (eq. 7); arguments as in `score`."""
        features = hidden
        if self.config.output == "deep":
            features = torch.tanh(
                self.output_hidden(self.dropout(hidden)) + embedded + self.output_context(context)
            )
        dropped: Tensor = self.dropout(features)
        return dropped

    def attend(self, state: State, memory: Memory) -> Float[Tensor, "batch cells"]:
        """Where the step that follows `state` looks (eq. 4-6); `memory` as in `step`."""
        if self.config.attention == "uniform":
            cells = memory.projected.shape[1]
            return memory.projected.new_full((len(state.hidden), cells), 1 / cells)
        return torch.softmax(self._relevance(self.hidden_projection(state.hidden), memory), dim=1)

    def gate_values(self, state: State) -> Float[Tensor, "batch channels"] | None:
        """The gate beta of the step that follows `state`, 0 to 1: one column, or one per channel; None without one."""
        if self.config.gate == "none":
            return None
        if self.config.gate == "shut":
            return state.hidden.new_zeros(len(state.hidden), 1)
        return torch.sigmoid(self.gate(state.hidden))

    def _next(
        self,
        embedded: Float[Tensor, "batch embedding"],
        context: Float[Tensor, "batch dim"],
        state: State,
    ) -> State:
        return State(*self.lstm(torch.cat([embedded, context], dim=1), (state.hidden, state.cell)))

    def _context(self, alpha: Float[Tensor, "batch cells"], memory: Memory) -> Float[Tensor, "batch dim"]:
        by_image = alpha.reshape(len(memory.annotations), -1, alpha.shape[1])
        return torch.bmm(by_image, memory.annotations).flatten(0, 1)  # (B, K, L) x (B, L, D) -> (B K, D)

    def _relevance(
        self, queries: Float[Tensor, "batch attention"], memory: Memory
    ) -> Float[Tensor, "batch cells"]:
        projected = memory.projected
        assert len(queries) % len(projected) == 0
        by_image = queries.reshape(len(projected), -1, queries.shape[1])
        # B K L A numbers: in pieces that stay in a CPU's cache, or fit on a GPU.
        at_a_time = max(1, (2**19 if queries.device.type == "cpu" else 2**28) // projected[0].numel())
        beams = min(at_a_time, by_image.shape[1])
        images = at_a_time // beams
        return torch.cat(
            [
                torch.cat([self._mix(part, cells) for part in torch.split(query, beams, dim=1)], dim=1)
                for query, cells in zip(
                    torch.split(by_image, images), torch.split(projected, images), strict=True
                )
            ]
        ).flatten(0, 1)

    def _mix(
        self,
        queries: Float[Tensor, "image beam attention"],
        projected: Float[Tensor, "image cells attention"],
    ) -> Float[Tensor, "image beam cells"]:
        mixed = projected.unsqueeze(1) + queries.unsqueeze(2)  # (B, K, L, A)
        mixed = tanh_(mixed) if self.config.attention_activation == "tanh" else mixed.relu_()
        relevance: Tensor = self.attention_score(mixed)
        return relevance.squeeze(3)

    def first_words(self, rows: int, start: int) -> Int[Tensor, " batch"] | None:
        """What the first step reads: `start` in every row, or None where the model begins with zeros."""
        if self.config.first_input == "zeros":
            return None
        return torch.full((rows,), start, dtype=torch.long, device=self.embedding.weight.device)

    def forward(
        self,
        annotations: Float[Tensor, "batch cells dim"],
        token_ids: Int[Tensor, "batch step"],
        start: int,
    ) -> TeacherForced:
        """Scores given captions: step t reads word t - 1 of the caption and predicts word t.

        Args:
            annotations: of one image per row.
            token_ids: the words to be said, `<end>` included, padded with anything; later words never
                influence earlier steps.
            start: token id of `<start>`.

        Returns:
            Log-probabilities of every word at every step, and the attention of every step.
        """
        memory, state = self.remember(annotations), self.initial_state(annotations)
        words = self.first_words(annotations.shape[0], start)
        log_probs, alphas = [], []
        for t in range(token_ids.shape[1]):
            step = self.step(words, state, memory)
            log_probs.append(step.log_probs)
            alphas.append(step.alpha)
            words, state = token_ids[:, t], step.state
        return TeacherForced(torch.stack(log_probs, dim=1), torch.stack(alphas, dim=1))


def _layers(count: int, width: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width, width) for _ in range(count))
