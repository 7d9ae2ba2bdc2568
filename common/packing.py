"""An encoder that computes no padding: between embeddings and head a batch is one row of its real tokens.

Two hooks on the encoder turn hidden states (rows, positions, width) into (1, tokens, width) and back, with zeros where
there was padding. Attention, which must keep the rows apart, comes through the library's `AttentionInterface` and pads
again. Embeddings, heads, losses, metrics and the saved model are the ordinary ones. Results are those of the padded
model, to the last bit or to rounding.

Attention works in parts of rows of similar length, because its work grows with the square of the longest row of a part:
one part more is begun where the rows so far would otherwise compute `PART_COST` scores a head that nobody reads.
Measured in bf16 with a 6-layer BERT 384 wide on 2 cores, whole training steps: packed, they are 1.9 (MRPC), 2.7
(SST-2), 2.4 (CoNLL-2003) and 2.6 (SQuAD) times as fast as padded to the longest row; with parts 1.9, 2.8, 2.4 and 3.3.
Costs from 10,000 to 40,000 and the exact optimum made no difference beyond noise.

On a GPU attention works in one part, and packing is off unless a flag asks for it: steps of BERT-base on an H100 (bf16,
batches of 32) took 1.5 (MRPC), 1.4 (CoNLL-2003) and 0.8 (SQuAD) times as long packed as padded, because starting
kernels is what takes the time there; in several parts 1.6 to 2.3 times, with PyTorch's sdpa in the part 1.2 to 3.5.
"""

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

PART_COST = 30_000
NAME = "packed"  # of the attention implementation
_is_tuned = False


class Part(NamedTuple):
    """Rows of similar length, whose tokens follow each other in the packed row."""

    tokens: slice
    rows: int
    longest: int
    places: torch.Tensor | None  # of the tokens among rows x longest positions; None where all rows are equally long
    mask: torch.Tensor | None  # (rows, 1, 1, longest), added to the scores; None likewise


class PackedBatch:
    """Where the tokens of a packed row belong. Inside the encoder it takes the place of the attention mask.

    Args:
        mask: (rows, positions), true at real tokens, wherever in a row these are.
    """

    def __init__(self, mask: torch.Tensor):
        lengths, order = mask.sum(dim=1).sort(stable=True)
        row, position = mask[order].nonzero(as_tuple=True)
        self.rows, self.positions = mask.shape
        self.index = order[row] * self.positions + position
        self.parts, start, end = [], 0, 0
        counts = lengths.tolist()
        parts = parts_of_similar_length(counts) if mask.device.type == "cpu" else [(0, self.rows)]
        for first, last in parts:
            longest, start, end = counts[last - 1], end, end + sum(counts[first:last])
            places = padding = None
            if counts[first] < longest:
                real = torch.arange(longest, device=mask.device) < lengths[first:last, None]
                places = real.flatten().nonzero().squeeze(1)
                padding = torch.zeros(real.shape, device=mask.device).masked_fill(~real, -1e30)[:, None, None]
            self.parts.append(Part(slice(start, end), last - first, longest, places, padding))

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """(rows, positions, width) -> (1, tokens, width)."""
        return states.flatten(0, 1)[self.index][None]

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """(1, tokens, width) -> (rows, positions, width), zeros at padding."""
        padded = states.new_zeros(self.rows * self.positions, states.shape[-1])
        return padded.index_copy(0, self.index, states[0]).view(self.rows, self.positions, -1)


def parts_of_similar_length(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The first row and the end of each part.

    Args:
        lengths: of the rows, in tokens, ascending.

    >>> parts_of_similar_length([10, 12, 300, 310])
    [(0, 2), (2, 4)]
    """
    starts = [0]
    for row, length in enumerate(lengths):
        if sum(length**2 - shorter**2 for shorter in lengths[starts[-1] : row]) > PART_COST:
            starts.append(row)
    return list(zip(starts, [*starts[1:], len(lengths)], strict=True))


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention within each row of a packed batch (`AttentionInterface`'s contract).

    Args:
        query, key, value: (1, heads, tokens, width of a head).
        attention_mask: the `PackedBatch`; anything else means that the batch was left padded, which is PyTorch's.

    Returns:
        (1, tokens, heads, width of a head), and no weights.
    """
    if not isinstance(attention_mask, PackedBatch):
        stock = AttentionInterface()["sdpa"]
        return stock(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=False)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    packed = [states[0].transpose(0, 1) for states in (query, key, value)]  # (tokens, heads, width)
    outputs = [attend(part, packed, scaling, dropout) for part in attention_mask.parts]
    return torch.cat(outputs)[None], None


def attend(part: Part, packed: Sequence[torch.Tensor], scaling: float, probability: float) -> torch.Tensor:
    """Attention among the rows of a part, padded to the longest of them: (tokens of the part, heads, width)."""
    _, heads, width = packed[0].shape

    def pad(states: torch.Tensor) -> torch.Tensor:
        tokens = states[part.tokens]
        if part.places is not None:
            positions = tokens.new_zeros(part.rows * part.longest, *tokens.shape[1:])
            tokens = positions.index_copy(0, part.places, tokens)
        return tokens.view(part.rows, part.longest, heads, width).transpose(1, 2)

    query, key, value = map(pad, packed)
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if part.mask is not None:
        weights = weights + part.mask.to(weights.dtype)
    weights = dropout(weights.softmax(dim=-1), probability)
    output = torch.matmul(weights, value).transpose(1, 2).reshape(part.rows * part.longest, heads, width)
    return output if part.places is None else output[part.places]


def padding_mask(*, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """For `AttentionMaskInterface`: the mask as it is, (rows, positions), in the shape that a padded batch needs."""
    return None if attention_mask is None else attention_mask[:, None, None, :]


def pack_input(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A forward pre-hook of the encoder. Hidden states of all layers, where asked for, keep their shape."""
    inputs = dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs
    mask = inputs.get("attention_mask")
    hidden_states_wanted = inputs.get("output_hidden_states", module.returns_hidden_states)
    if mask is not None and mask.dtype == torch.bool and mask.shape[1:3] == (1, 1) and not hidden_states_wanted:
        batch = PackedBatch(mask[:, 0, 0])
        inputs |= {"hidden_states": batch.pack(inputs["hidden_states"]), "attention_mask": batch}
    return (), inputs


def unpack_output(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """A forward hook of the encoder."""
    batch = kwargs.get("attention_mask")
    if isinstance(batch, PackedBatch):
        output["last_hidden_state"] = batch.unpack(output["last_hidden_state"])
    return output


def pack(model: Any) -> bool:
    """Let `model` compute no padding, if its results stay what they are; else leave it alone and return False.

    That takes an encoder module between embeddings and head, attention through the library's interface, and nothing
    that counts positions in between (MPNet, DeBERTa) or unpads by itself (ModernBERT). The structure is looked at, and
    two rows of unequal length are then computed both ways.

    Args:
        model: a `PreTrainedModel` that shares its config with no other, as `from_pretrained` makes it. In it the
            implementation is entered, and not saved.
    """
    base, config = model.base_model, model.config
    encoder = getattr(base, "encoder", None) or getattr(base, "transformer", None)
    takes = inspect.signature(encoder.forward).parameters if encoder is not None else ()
    has_inputs = {"hidden_states", "attention_mask"} <= set(takes)
    excluded = ("is_decoder", "is_encoder_decoder", "output_attentions")  # weights come from the eager one alone
    if not model._supports_attention_backend or not has_inputs or any(getattr(config, n, False) for n in excluded):
        return False
    before = config._attn_implementation
    if before == NAME:
        return True
    try:
        expected = probe(base)
    except Exception:  # it takes other inputs, or has no weights yet
        return False
    config._attn_implementation = NAME
    encoder.returns_hidden_states = getattr(config, "output_hidden_states", False)
    hooks = (
        encoder.register_forward_pre_hook(pack_input, with_kwargs=True),
        encoder.register_forward_hook(unpack_output, with_kwargs=True),
    )
    with contextlib.suppress(Exception):  # as of one that picks rows from hidden states between its layers
        if (probe(base) - expected).abs().max() <= 1e-4 * expected.abs().max():
            return True
    for hook in hooks:
        hook.remove()
    config._attn_implementation = before
    return False


@torch.no_grad()
def probe(base: nn.Module) -> torch.Tensor:
    """Hidden states at the real tokens of two rows, of 5 and 9 tokens."""
    lengths = torch.tensor([[5], [9]])
    mask = (torch.arange(9) < lengths).long().to(base.device)
    ids = (torch.arange(18).view(2, 9) + 3).to(base.device) % base.config.vocab_size
    was_training = base.training
    states = base.eval()(input_ids=ids, attention_mask=mask)[0]
    base.train(was_training)
    return states[mask.bool()]


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, padding_mask)


# Dropout and denormal numbers on a CPU


def tune_cpu(wanted: bool) -> None:
    """Settings of this process for training on its CPU, for `--cpu_tuning`; `dropout` follows it.

    Denormal numbers count as zero: the optimizer's first moment of a word that has not occurred for some 800 steps
    shrinks below 1e-38 and stays there, and arithmetic with such numbers took an update of the 30,522 x 384 embedding
    matrix from 11 ms to 140 ms.
    """
    global _is_tuned
    _is_tuned = wanted
    torch.set_flush_denormal(wanted)


def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True) -> torch.Tensor:
    """`nn.functional.dropout`, on a tuned CPU at a quarter of its time with 16 random bits an element.

    On a CPU PyTorch's `bernoulli_` takes 12 ns an element, a quarter of a training step of a small BERT. One draw of 64
    bits decides four elements here. The probability is rounded to a multiple of 2 ** -16 (0.1 to 0.100006), the scale
    of what is kept is that probability's, so the expectation is exact. Each mask's seed comes from PyTorch's global
    generator, so seeds, resumed runs and gradient checkpointing repeat.
    """
    cut = round(p * 2**16)
    if not training or not _is_tuned or not 0 < cut < 2**16 or input.device.type != "cpu":
        return nn.functional.dropout(input, p, training)
    seed = int(torch.randint(2**62, ()))
    drawn = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-input.numel() // 4)).view(np.int16))
    kept = torch.empty_like(input, requires_grad=False)
    torch.ge(drawn[: input.numel()].view(input.shape), cut - 2**15, out=kept)  # 1.0 or 0.0 in one pass
    return input * kept.mul_(2**16 / (2**16 - cut))


class Dropout(nn.Dropout):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return dropout(input, self.p, self.training)


def replace_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of each `nn.Dropout` of a model that is to train on a tuned CPU."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if _is_tuned and type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
