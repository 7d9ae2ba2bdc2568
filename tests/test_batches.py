"""Which examples share a batch, and what of it is computed."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    TrainingArguments,
)

from common import batches, cpu
from common.batches import (
    PART_COST,
    TrainingBatches,
    TrainingOrder,
    parts_of_like_length,
    positions,
    sorted_by_length,
    split_by_length,
)
from common.training import RecipeTrainer, cross_entropy_loss, load_model, span_loss

LENGTHS = [(37 * i) % 61 + 3 for i in range(1000)]


def order(epoch, seed=1, batch_size=16, lengths=LENGTHS, grouped=True):
    sampler = TrainingOrder(lengths, batch_size, seed, grouped)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("grouped", [True, False])
def test_the_order_is_a_function_of_seed_and_epoch_alone(grouped):
    first = order(0, grouped=grouped)
    torch.manual_seed(999)
    torch.rand(10)
    assert order(0, grouped=grouped) == first
    assert order(1, grouped=grouped) != first
    assert order(0, seed=2, grouped=grouped) != first
    assert sorted(first) == list(range(1000))


def test_grouped_batches_are_of_like_length_and_differ_between_epochs():
    def padding(rows):
        tokens, computed = positions(LENGTHS, [rows[i : i + 16] for i in range(0, len(rows), 16)])
        return 1 - tokens / computed

    assert padding(order(0)) < padding(order(0, grouped=False)) / 5
    batches = [{frozenset(order(epoch)[i : i + 16]) for i in range(0, 992, 16)} for epoch in (0, 1)]
    assert len(batches[0] & batches[1]) < 5


def test_the_longest_example_comes_first_and_the_incomplete_batch_last():
    first = order(3)
    assert max(LENGTHS) in [LENGTHS[i] for i in first[:16]]
    assert len({LENGTHS[i] for i in first[-8:]}) <= 8
    assert sorted(order(0, lengths=[5, 4, 3], batch_size=8)) == [0, 1, 2]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(
    ("rows", "processes", "steps"), [(1000, 2, 1), (1000, 8, 2), (513, 2, 4), (17, 16, 1), (3, 4, 4)]
)
def test_processes_share_the_batches_of_one(rows, processes, steps, grouped):
    """The examples of each optimizer step are the same, each once, and every process takes part in every batch."""
    sampler = TrainingOrder(LENGTHS[:rows], 16, 1, grouped)
    sampler.set_epoch(2)
    alone = [set(batch) for batch in TrainingBatches(sampler)]
    shares = [list(TrainingBatches(sampler, process, processes, steps)) for process in range(processes)]
    assert {len(share) for share in shares} == {len(TrainingBatches(sampler, 0, processes, steps))}
    assert max(len(batch) for share in shares for batch in share) <= 16 // (processes * steps)
    for step, expected in enumerate(alone):
        computed = [row for share in shares for batch in share[step * steps : (step + 1) * steps] for row in batch]
        assert sorted(computed) == sorted(expected)
    assert shares[0][-1], "the main process is never without a row"


def test_no_process_waits_for_the_long_batch_of_another():
    def waiting(grouped):
        """Positions between the longest and the shortest batch of the processes, mean over the steps."""
        shares = [TrainingBatches(TrainingOrder(LENGTHS, 16, 1, grouped), process, 4) for process in range(4)]
        longest = [[max(LENGTHS[row] for row in batch) for batch in share] for share in shares]
        return sum(max(of) - min(of) for of in zip(*longest, strict=True)) / len(longest[0])

    assert waiting(grouped=True) < waiting(grouped=False) / 8


def test_evaluation_order_is_by_length_and_says_whose_row_it_is():
    dataset = Dataset.from_dict({"length": [3, 9, 5], "sentence": [0, 1, 2]})
    assert sorted_by_length(dataset)["sentence"][:] == [1, 2, 0]


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [3, 290, 4, 280, 5], [9, 500, 8, 90, 91, 7, 300, 6]])
def test_the_parts_of_a_batch_are_the_cheapest(lengths):
    """Against all ways to cut the rows in order of length."""

    def cost(parts):
        return sum(PART_COST + len(part) * max(part) for part in parts)

    ordered, every = sorted(lengths), []
    for count in range(len(ordered)):
        for cuts in itertools.combinations(range(1, len(ordered)), count):
            edges = [0, *cuts, len(ordered)]
            every.append(cost([ordered[a:b] for a, b in itertools.pairwise(edges)]))
    parts = parts_of_like_length(lengths)
    assert sorted(itertools.chain(*parts)) == list(range(len(lengths)))
    assert cost([[lengths[row] for row in part] for part in parts]) == min(every)


def test_a_batch_is_cut_to_the_longest_row_of_each_part():
    mask = torch.tensor([[1] * 300, [1] * 3 + [0] * 297, [1] * 250 + [0] * 50, [1] * 4 + [0] * 296])
    ids = torch.arange(1200).view(4, 300)
    labels = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7]])
    short, long = split_by_length({"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert short["input_ids"].tolist() == [ids[1, :4].tolist(), ids[3, :4].tolist()]
    assert short["labels"].tolist() == [[2, 3], [6, 7]]
    assert long["attention_mask"].sum() == 550 and long["input_ids"].shape == (2, 300)
    tokens, computed = positions([300, 3, 250, 4], [[0, 1, 2, 3]], is_split=True)
    assert (tokens, computed) == (557, 608)
    on_the_left = {"input_ids": ids, "attention_mask": mask.flip(1)}
    assert split_by_length(on_the_left) == [on_the_left]


@pytest.mark.parametrize(
    "auto_class",
    [AutoModelForTokenClassification, AutoModelForSequenceClassification, AutoModelForQuestionAnswering],
)
def test_a_split_batch_gives_the_loss_and_gradient_of_the_whole(
    auto_class, tmp_path, tiny_bert_without_dropout, monkeypatch
):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([60, 5, 50, 4, 6, 58, 5, 3])
    monkeypatch.setattr(batches.parts_of_like_length, "__defaults__", (20,))  # or so small a batch stays whole
    mask = (torch.arange(60) < lengths[:, None]).long()
    labels = torch.randint(0, 2, (8, 60), generator=generator).masked_fill(mask == 0, -100)
    ids = torch.randint(5, 90, (8, 60), generator=generator) * mask
    if auto_class is AutoModelForSequenceClassification:
        labels = labels[:, 0]
    if auto_class is AutoModelForQuestionAnswering:
        labels = torch.stack([lengths // 3, lengths // 2], dim=1)
    args = TrainingArguments(tmp_path, use_cpu=True, per_device_train_batch_size=8)
    torch.manual_seed(0)
    names = SimpleNamespace(model_name_or_path=tiny_bert_without_dropout, attn_implementation=None)
    model = load_model(auto_class, names, args).train()
    train = Dataset.from_dict({"labels": labels.tolist(), "length": lengths.tolist()})
    loss = span_loss(0.0) if auto_class is AutoModelForQuestionAnswering else cross_entropy_loss()
    trainer = RecipeTrainer(model=model, args=args, train_dataset=train, compute_loss_func=loss)
    batch, count = {"input_ids": ids, "attention_mask": mask, "labels": labels}, labels.ne(-100).sum()
    found = []
    for tuned in (False, True):
        cpu.tune_cpu(tuned)
        assert trainer.splits_batches is tuned
        model.zero_grad()
        loss = trainer.training_step(model, batch, count)
        found.append((loss, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]))
    cpu.tune_cpu(False)
    assert len(split_by_length(batch)) > 1
    torch.testing.assert_close(found[0][0], found[1][0])
    for whole, split in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(whole, split, rtol=1e-4, atol=1e-6)
