"""Tiny models and small files, made anew for the tests; no network, no cache of the user's."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="recipes-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)  # for what runs as a process of its own
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models spend more on handing work over than on the work
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # the machine may be busy
settings.load_profile("untimed")
ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "recipes" / "samples"
ENDINGS = {"text_classification": "csv", "nli": "csv", "ner": "conll", "qa": "json"}  # of the samples
# As typed by a person, also when these tests themselves run under make.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}


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


def flags_of(*lines: str | list, **values) -> list[str]:
    """A command line: flags in strings or lists, then those of `values`. Of a flag that is repeated the last counts."""
    words = [word for line in lines for word in (line.split() if isinstance(line, str) else line)]
    for name, value in values.items():
        words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return list(map(str, words))


def run(recipe, *lines: str | list, **values) -> dict[str, float]:
    """The results of a recipe, in this process and in fp32."""
    return recipe.main(flags_of("--bf16 false --use_cpu true --disable_tqdm true", *lines, **values))


def process(*words, cwd: Path = ROOT, environment: dict | None = None, **options) -> subprocess.CompletedProcess:
    """A command that has ended, with what it printed; of a Python module where the first word is -m."""
    words = [sys.executable, *words] if str(words[0]).startswith("-") else words
    environment = ENVIRONMENT if environment is None else environment
    options = {"cwd": cwd, "env": environment, "capture_output": True, "text": True} | options
    return subprocess.run(list(map(str, words)), **options)


def write(path: Path, content: str | bytes | list[dict]) -> str:
    """Write text, bytes or JSON lines, and return the path."""
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def read_words(path: Path, **options):
    """A file of tagged sentences as the NER recipe reads it."""
    from common.words import tagged_sentences
    from recipes import ner

    options = dict(tokens_column=None, tags_column=None, label_list=None) | options
    return read(path, tagged_sentences, ner.FEATURES, **options)


def read_texts(path: Path, count: int = 1, label_columns: list[str] | None = None, **options):
    """A file of texts and labels as the recipes for one or two texts read it."""
    from common.texts import find_columns, labelled_texts
    from recipes import text_classification

    texts, labels = find_columns({"train": source_of(path)}, count, None, label_columns)
    options = dict(text_columns=texts, label_columns=labels, names=None) | options
    return read(path, labelled_texts, text_classification.FEATURES, **options)


def read_questions(path: Path):
    """A file of questions as the QA recipe reads it."""
    from common.questions import questions_and_answers
    from recipes import qa

    return read(path, questions_and_answers, qa.FEATURES)


def source_of(path: Path, **options):
    from common.data import Source, file_digest

    return Source(str(path), file_digest(str(path)), path=str(path), **options)


def read(path: Path, parse, features, **options):
    from common.data import build_dataset

    return build_dataset(source_of(path), parse, features, **options)


def write_sentences(path: Path, sentences: list[tuple[list[str], list[str]]]) -> str:
    blocks = ("".join(f"{word} {tag}\n" for word, tag in zip(*sentence, strict=True)) for sentence in sentences)
    path.write_text("\n".join(blocks), encoding="utf-8")
    return str(path)


def read_sample(split: str) -> list[tuple[list[str], list[str]]]:
    blocks = (SAMPLES / "ner" / f"{split}.conll").read_text(encoding="utf-8").strip().split("\n\n")
    return [tuple(zip(*(line.split() for line in block.splitlines()), strict=True)) for block in blocks]


def logged(run: Path, key: str) -> list[float]:
    """What a run's only checkpoint says was logged under `key`."""
    state = read_json(next(run.glob("checkpoint-*/trainer_state.json")))
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
def encoder(tmp_path_factory):
    """A function of an architecture's name that saves its model once and returns the folder."""
    from tests.encoders import save_encoder

    pairs = (SAMPLES / "nli" / "train.csv").read_text(encoding="utf-8").splitlines()
    texts = [" ".join(words) for words, _ in read_sample("train")] + [line.split(",")[0] for line in pairs]
    return functools.cache(lambda name: save_encoder(name, tmp_path_factory.mktemp(name), texts))


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


@pytest.fixture(scope="session")
def ner_line(tiny_bert, small_files) -> str:
    """Flags of a run of seconds: two epochs of 9 steps (64 sentences in 66 windows)."""
    files = " ".join(f"--{split}_file {path}" for split, path in small_files.items())
    lengths = "--num_train_epochs 2 --per_device_train_batch_size 8 --learning_rate 1e-3 --max_seq_length 32"
    return f"--model_name_or_path {tiny_bert} {files} {lengths}"


@pytest.fixture
def ner_flags(ner_line, tmp_path) -> list[str]:
    return flags_of("--bf16 false --disable_tqdm true", ner_line, output_dir=tmp_path / "run")
