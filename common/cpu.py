"""What training on a CPU gains without changing what is computed: memory, denormal numbers, dropout masks, bf16."""

import contextlib
import ctypes
import functools
import os
import platform
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

stock_dropout = F.dropout
_is_tuned = False


def tune_cpu(wanted: bool) -> None:
    """Settings of this process for training on its CPU, for `--cpu_tuning`; `dropout_context` and the splitting of
    batches (`common/batches.py`) follow it.

    Denormal numbers count as zero: the optimizer's first moment of a word that has not occurred for some 800 steps
    shrinks below 1e-38 and stays there, and arithmetic with such numbers took an update of the 30,522 x 384 embedding
    matrix from 11 ms to 140 ms.
    """
    global _is_tuned
    _is_tuned = wanted
    torch.set_flush_denormal(wanted)
    if wanted:
        keep_freed_memory()


def is_tuned() -> bool:
    return _is_tuned


def keep_freed_memory() -> None:
    """Tell glibc to keep the memory that a training step frees, for the next step.

    By default large tensors (the embedding's gradient alone is 47 MB to 94 MB) are returned to the system and fetched
    anew, zeroed page by page, in every step: 18,000 page faults a step and a sixth of its time for a small batch of a
    6-layer BERT. Where the environment says how memory is to be handled (MALLOC_..., GLIBC_TUNABLES), that stands.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def dropout_context() -> Iterator[None]:
    """For forward and backward of a training step: on a tuned CPU `nn.functional.dropout` is `cheap_dropout`.

    The backward pass must be inside, or gradient checkpointing would compute the second forward with other masks.
    """
    if _is_tuned:
        F.dropout = cheap_dropout
    try:
        yield
    finally:
        F.dropout = stock_dropout


def cheap_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """`nn.functional.dropout` at a quarter of its time, with 16 random bits an element.

    On a CPU PyTorch's `bernoulli_` takes 12 ns an element, a quarter of a training step of a small BERT. One draw of 64
    bits decides four elements here. The probability is rounded to a multiple of 2 ** -16 (0.1 to 0.100006), the scale
    of what is kept is that probability's, so the expectation is exact. Each mask's seed comes from PyTorch's global
    generator, so seeds and resumed runs repeat.

    >>> sorted({round(value, 3) for value in cheap_dropout(torch.ones(100_000), p=0.1).tolist()})
    [0.0, 1.111]
    """
    cut = round(p * 2**16)
    if not training or not 0 < cut < 2**16 or inplace or input.device.type != "cpu":
        return stock_dropout(input, p, training, inplace)
    seed = int(torch.randint(2**62, ()))
    drawn = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-input.numel() // 4)).view(np.int16))
    kept = torch.empty_like(input, requires_grad=False)
    torch.ge(drawn[: input.numel()].view(input.shape), cut - 2**15, out=kept)  # 1.0 or 0.0 in one pass
    return input * kept.mul_(2**16 / (2**16 - cut))


@functools.cache
def cpu_bf16_speedup() -> float:
    """How many times faster this CPU multiplies matrices in bf16 than in fp32; 0 where it has no instruction for it.

    Asked of the machine and not of a list: with AMX the ratio is about 5, with AVX512-BF16 alone some processors reach
    2 and others 0.6. About 0.1 s.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        known = any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
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
            F.linear(x, weight)
            runs.append(time.perf_counter() - start)
        seconds.append(min(runs))
    return seconds[0] / seconds[1]
