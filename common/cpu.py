"""What training on a CPU gains without changing what is computed: denormal numbers, dropout masks, bf16."""

import functools
import time

import numpy as np
import torch
from torch import nn

_is_tuned = False


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
                setattr(module, name, Dropout(child.p))


@functools.cache
def cpu_bf16_speedup() -> float:
    """How many times faster this CPU multiplies matrices in bf16 than in fp32; 0 where it has no instruction for it.

    Measured on the machine, not read from a list: with AMX the ratio is about 5, with AVX512-BF16 alone some processors
    reach 3 and others 0.6. About 0.1 s.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        known = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    else:
        known = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not known:
        return 0.0
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(512, 768, dtype=dtype), torch.ones(3072, 768, dtype=dtype)
        runs = []
        for _ in range(6):
            start = time.perf_counter()
            nn.functional.linear(x, weight)
            runs.append(time.perf_counter() - start)
        seconds.append(min(runs))
    return seconds[0] / seconds[1]
