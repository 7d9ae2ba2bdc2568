"""An exported model in the place of PyTorch's."""

import importlib.util
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError


def check_packages(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)}: not installed; pip install -r recipes/tools/requirements-export.txt")


class OnnxModel:
    """An exported model in the place of PyTorch's: what `training.compute_logits` asks of a model, and no more."""

    device = torch.device("cpu")

    def __init__(self, path: Path):
        check_packages("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # else all cores, whatever OMP_NUM_THREADS says
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> dict[str, torch.Tensor]:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        computed = self.session.run(self.outputs, {name: given[name].numpy() for name in self.inputs})
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, computed, strict=True)}

    __call__ = forward
