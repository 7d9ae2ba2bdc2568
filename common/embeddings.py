"""Training of the word embeddings in the rows that occur, with the optimizer's result unchanged."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.compute
import torch
from torch import nn
from transformers import PreTrainedModel

from common.errors import InputError


class EmbeddingInUse(nn.Embedding):
    """An embedding of which only the rows that occur in training are parameters: a third of BERT's for some thousand
    sentences.

    The gradient of the others is zero in every step, and AdamW without weight decay leaves a parameter that never had
    another gradient bit for bit as it is. A dense gradient, its norm and the update of rows that are never read are a
    seventh of the training of a small BERT on short sentences. The state dict is that of the embedding it stands for,
    in whose memory the trained rows are written whenever it is read.

    Args:
        whole: the embedding, of shape (pieces, dimensions).
        pieces: numbers of the pieces that occur, (used,), each once.
    """

    def __init__(self, whole: nn.Embedding, pieces: torch.Tensor):
        super().__init__(*whole.weight.shape, whole.padding_idx, _weight=whole.weight.detach(), _freeze=True)
        slots = torch.full((whole.num_embeddings,), -1)
        slots[pieces] = torch.arange(len(pieces))
        padding = None if whole.padding_idx is None else int(slots[whole.padding_idx])
        self.rows = nn.Embedding(*whole.weight[pieces].shape, padding, _weight=whole.weight[pieces].detach())
        self.register_buffer("pieces", pieces, persistent=False)
        self.register_buffer("slots", slots, persistent=False)
        self.register_state_dict_post_hook(EmbeddingInUse.merge)
        self.register_load_state_dict_pre_hook(EmbeddingInUse.divide)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input_ids)
        slots = self.slots[input_ids]
        if slots.numel() and slots.min() < 0:
            piece = input_ids[slots < 0][0].item()
            raise InputError(f"piece {piece} of the vocabulary is not in the training set; add --cpu_tuning false")
        return self.rows(slots)

    def train(self, mode: bool = True) -> "EmbeddingInUse":
        if not mode:
            self.write_back()
        return super().train(mode)

    @torch.no_grad()
    def write_back(self) -> None:
        self.weight[self.pieces] = self.rows.weight

    def merge(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        self.write_back()
        del state[f"{prefix}rows.weight"]

    def divide(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if f"{prefix}weight" in state:
            state[f"{prefix}rows.weight"] = state[f"{prefix}weight"][self.pieces]

    def keep_state_whole(self, optimizer: torch.optim.Optimizer) -> None:
        """Checkpoints hold the optimizer's moments of all rows, zero for those not in use, as a stock run's do."""
        order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        index = next(i for i, parameter in enumerate(order) if parameter is self.rows.weight)

        def replaced(state_dict: dict[str, Any], of_rows: torch.Size, change: Any) -> dict[str, Any]:
            state = dict(state_dict["state"])
            if index in state:
                state[index] = {k: change(v) if v.shape == of_rows else v for k, v in state[index].items()}
            return state_dict | {"state": state}

        def enlarge(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
            def change(moments: torch.Tensor) -> torch.Tensor:
                return moments.new_zeros(self.weight.shape).index_copy(0, self.pieces, moments)

            return replaced(state_dict, self.rows.weight.shape, change)

        def reduce(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
            return replaced(state_dict, self.weight.shape, lambda moments: moments[self.pieces])

        optimizer.register_state_dict_post_hook(enlarge)
        optimizer.register_load_state_dict_pre_hook(reduce)


@contextlib.contextmanager
def only_rows_in_use(model: Any, dataset: Any, special_pieces: Sequence[int]) -> Iterator[EmbeddingInUse | None]:
    """While a model is trained, its word embedding is an `EmbeddingInUse`; None where it cannot be.

    Args:
        model: left as it is where its word embedding is frozen, shared with another module, or not looked up by the
            numbers of a vocabulary.
        dataset: the training set, with a column `input_ids`.
        special_pieces: of the tokenizer; they count as in use.
    """
    whole = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    named = model.named_parameters(remove_duplicate=False)
    if (
        type(whole) is not nn.Embedding
        or whole.num_embeddings != getattr(model.config, "vocab_size", None)
        or not whole.weight.requires_grad
        or sum(parameter is whole.weight for _, parameter in named) > 1
    ):
        yield None
        return
    chunks = pyarrow.compute.list_flatten(dataset.data.column("input_ids"))
    pieces = {*pyarrow.compute.unique(chunks).to_pylist(), *special_pieces, whole.padding_idx}
    pieces &= {*range(whole.num_embeddings)}  # a tokenizer may have more, for other models
    embedding = EmbeddingInUse(whole, torch.tensor(sorted(pieces)))
    model.set_input_embeddings(embedding)
    try:
        yield embedding
    finally:
        embedding.write_back()
        model.set_input_embeddings(whole)
