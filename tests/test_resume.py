"""Interruption in the recipes other than NER, whose own tests kill real processes."""

import gc
import json

import pytest

from common.runs import CompleteCheckpoints
from recipes import nli, qa, text_classification
from tests.conftest import ROOT, save_tiny_bert
from tests.test_qa import article

SAMPLES = ROOT / "recipes" / "samples"


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    texts = [(SAMPLES / name / "validation.csv").read_text(encoding="utf-8") for name in ("nli", "text_classification")]
    return save_tiny_bert(tmp_path_factory.mktemp("tiny-resume"), [*texts, json.dumps(article(20, 1))], positions=128)


@pytest.mark.parametrize("module", [text_classification, nli, qa])
def test_killed_in_the_second_epoch_and_resumed_is_bit_for_bit_the_same(module, tiny, tmp_path, monkeypatch):
    name = module.__name__.removeprefix("recipes.")
    train = SAMPLES / name / "validation.csv"
    if module is qa:
        train = tmp_path / "t.json"
        train.write_text(json.dumps(article(48, 1)))
    flags = f"--model_name_or_path {tiny} --train_file {train} --validation_file {train} --max_train_samples 48 "
    flags += "--max_eval_samples 20 --num_train_epochs 2 --per_device_train_batch_size 8 --learning_rate 1e-3 "
    flags += "--save_strategy steps --save_steps 4 --bf16 false --disable_tqdm true --output_dir"
    whole = module.main([*flags.split(), str(tmp_path / "whole")])

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 10:  # of 12; the newest checkpoint is of step 8, in the second epoch
            raise Killed

    monkeypatch.setattr(CompleteCheckpoints, "on_step_end", on_step_end)
    with pytest.raises(Killed):
        module.main([*flags.split(), str(tmp_path / "run")])
    gc.collect()  # the operating system lets go of a killed process's lock
    monkeypatch.undo()
    assert not (tmp_path / "run" / "all_results.json").exists()
    assert module.main([*flags.split(), str(tmp_path / "run")]) == whole
    for file in ("model.safetensors", "predictions.jsonl"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
