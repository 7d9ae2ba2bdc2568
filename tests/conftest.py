"""Tiny models and small files, made anew for the tests; no network, no cache of the user's."""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="recipes-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models spend more on handing work over than on the work
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # the machine may be busy
settings.load_profile("untimed")
ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "recipes" / "samples" / "ner"


def save_tiny_bert(folder: Path, texts: list[str], dropout: float = 0.1, positions: int = 64) -> str:
    """A random 2-layer BERT with a word-piece vocabulary of the words of `texts`, saved like a model on the Hub."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word.lower() for text in texts for word in text.split()})
    pieces = sorted({c for word in words for c in word} | {"##" + c for word in words for c in word})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *words]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer = BertTokenizerFast(tokenizer_object=backend, model_max_length=positions)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_sentences(path: Path, sentences: list[tuple[list[str], list[str]]]) -> str:
    blocks = ("".join(f"{word} {tag}\n" for word, tag in zip(*sentence, strict=True)) for sentence in sentences)
    path.write_text("\n".join(blocks), encoding="utf-8")
    return str(path)


def read_sample(split: str) -> list[tuple[list[str], list[str]]]:
    blocks = (SAMPLE / f"{split}.conll").read_text(encoding="utf-8").strip().split("\n\n")
    return [tuple(zip(*(line.split() for line in block.splitlines()), strict=True)) for block in blocks]


def logged(run: Path, key: str) -> list[float]:
    """What a run's only checkpoint says was logged under `key`."""
    state = json.loads(next(run.glob("checkpoint-*/trainer_state.json")).read_text())
    return [row[key] for row in state["log_history"] if key in row]


@pytest.fixture(scope="session", autouse=True)
def no_report():
    """Drawing takes longer than a tiny run; tests/test_report.py draws what it looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.tools.report.draw_report", lambda folder: None)
        yield


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> str:
    texts = [" ".join(words) for words, _ in read_sample("train")]
    return save_tiny_bert(tmp_path_factory.mktemp("tiny-bert"), texts)


@pytest.fixture(scope="session")
def tiny_bert_without_dropout(tmp_path_factory) -> str:
    texts = [" ".join(words) for words, _ in read_sample("train")]
    return save_tiny_bert(tmp_path_factory.mktemp("tiny-bert-0"), texts, dropout=0.0)


@pytest.fixture(scope="session")
def small_files(tmp_path_factory) -> dict[str, str]:
    """Slices of the bundled sample: 64 sentences to train on, 21 to validate (odd on purpose), 15 to test."""
    folder = tmp_path_factory.mktemp("small-ner")
    train, held_out = read_sample("train"), read_sample("validation")
    return {
        "train": write_sentences(folder / "train.conll", train[:64]),
        "validation": write_sentences(folder / "validation.conll", held_out[:21]),
        "test": write_sentences(folder / "test.conll", held_out[21:36]),
    }


@pytest.fixture
def ner_flags(tiny_bert, small_files, tmp_path) -> list[str]:
    """Flags of a run of seconds: fp32, two epochs of 9 steps (64 sentences in 66 windows)."""
    return [
        *f"--model_name_or_path {tiny_bert} --train_file {small_files['train']}".split(),
        *f"--validation_file {small_files['validation']} --test_file {small_files['test']}".split(),
        *f"--output_dir {tmp_path / 'run'} --num_train_epochs 2 --per_device_train_batch_size 8".split(),
        *["--learning_rate", "1e-3", "--bf16", "false", "--disable_tqdm", "true", "--max_seq_length", "32"],
    ]
