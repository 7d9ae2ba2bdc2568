"""GLUE's own file formats: the official download is read, the files of a submission are written.

Source of both: gluebenchmark.com (tasks, and the FAQ on how a submission looks); Wang et al. 2019, arXiv 1804.07461.
"""

import csv
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

from common.data import read_lines
from common.errors import InputError

log = logging.getLogger("recipes")

# Folder in the download, and its columns under the names that the recipes use.
OFFICIAL = {
    "cola": ("CoLA", {"sentence": "sentence", "label": "label"}),
    "sst2": ("SST-2", {"sentence": "sentence", "label": "label"}),
    "mrpc": ("MRPC", {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"}),
    "stsb": ("STS-B", {"sentence1": "sentence1", "sentence2": "sentence2", "score": "label"}),
    "qqp": ("QQP", {"question1": "question1", "question2": "question2", "is_duplicate": "label"}),
    "mnli": ("MNLI", {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}),
    "qnli": ("QNLI", {"question": "question", "sentence": "sentence", "label": "label"}),
    "rte": ("RTE", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
    "wnli": ("WNLI", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
    "ax": ("AX", {"sentence1": "premise", "sentence2": "hypothesis"}),
}
# Files of the download, without their ending, and what they are called here.
SPLITS = {"train": "train", "dev": "validation", "test": "test", "AX": "test"}
COLA_WITHOUT_HEADER = ["source", "label", "annotation", "sentence"]  # train and dev; test has a header

# The eleven files of a submission: name -> (task whose model answers, split file of the data, rows, label names).
NUMBERS, NOT_ENTAILED = ("0", "1"), ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")
SUBMISSION = {
    "CoLA": ("cola", "cola/test", 1063, NUMBERS),
    "SST-2": ("sst2", "sst2/test", 1821, NUMBERS),
    "MRPC": ("mrpc", "mrpc/test", 1725, NUMBERS),
    "STS-B": ("stsb", "stsb/test", 1379, None),
    "QQP": ("qqp", "qqp/test", 390965, NUMBERS),
    "MNLI-m": ("mnli", "mnli/test_matched", 9796, INFERENCE),
    "MNLI-mm": ("mnli", "mnli/test_mismatched", 9847, INFERENCE),
    "QNLI": ("qnli", "qnli/test", 5463, NOT_ENTAILED),
    "RTE": ("rte", "rte/test", 3000, NOT_ENTAILED),
    "WNLI": ("wnli", "wnli/test", 146, NUMBERS),
    "AX": ("mnli", "ax/test", 1104, INFERENCE),
}


def is_official(folder: Path, task: str) -> bool:
    """Whether `folder` holds the task as the official download lays it out, with the ending .tsv."""
    return any((folder / OFFICIAL[task][0]).glob("*.tsv"))


def convert_official(folder: Path, task: str, target: Path) -> None:
    """Write the splits of an official task as `target/<task>/{train,validation,test}.csv`, with MNLI's two of each.

    The download's files are tab-separated without quoting, so that a quotation mark is a character like others.

    Raises:
        InputError: a file without the task's columns, or whose `index` does not count its rows.
    """
    source, columns = OFFICIAL[task]
    for path in sorted((folder / source).glob("*.tsv")):
        name, _, genre = path.stem.partition("_")
        if name not in SPLITS:
            continue
        (target / task).mkdir(parents=True, exist_ok=True)
        with open(target / task / f"{'_'.join(filter(None, [SPLITS[name], genre]))}.csv", "w", newline="") as file:
            rows = official_rows(path, task, columns)
            writer = csv.DictWriter(file, next(rows))
            writer.writeheader()
            writer.writerows(rows)


def official_rows(path: Path, task: str, columns: dict[str, str]) -> Iterator:
    """First the names of the columns, then a dictionary for each row."""
    lines = (text.split("\t") for _, text in read_lines(str(path)))
    header = COLA_WITHOUT_HEADER if task == "cola" and path.stem != "test" else next(lines, [])
    found = {new: header.index(old) for old, new in columns.items() if old in header}
    missing = [old for old, new in columns.items() if new not in found and new != "label"]
    if missing or ("label" not in found and "label" in columns.values() and path.stem.startswith(("train", "dev"))):
        raise InputError(f"{path}, line 1: has no column {', '.join(missing) or 'of labels'}; is it GLUE's {task}?")
    yield list(found)
    is_test, lost, expected = path.stem.startswith(("test", "AX")), 0, 0
    for fields in lines:
        if len(fields) != len(header):
            lost += 1
            continue
        if is_test and header[0] in ("index", "id") and fields[0] != str(expected):
            raise InputError(f"{path}: index {fields[0]} where {expected} follows; a submission needs every row once")
        expected += 1
        yield {name: fields[i] for name, i in found.items()}
    if lost and is_test:
        raise InputError(f"{path}: {lost} rows do not have the header's {len(header)} fields; a submission needs all")
    if lost:  # a few of QQP's are broken in the download itself
        log.warning("%s: %d rows do not have the header's %d fields and are left out.", path, lost, len(header))


def write_submission(folders: dict[str, Path], target: Path) -> Path:
    """The eleven files and the zip, each checked.

    Args:
        folders: name of each file, as in `SUBMISSION` -> folder with the `predictions.jsonl` of its rows in order.
        target: folder to write to.

    Returns:
        The zip's path.

    Raises:
        InputError: a file is missing, has another number of rows than GLUE's, or an answer that GLUE does not know.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name, (_, _, count, labels) in SUBMISSION.items():
        if name not in folders:
            raise InputError(f"{name}.tsv: no predictions; a submission needs all of {', '.join(SUBMISSION)}")
        lines = (folders[name] / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        answers = [submitted(json.loads(line), folders[name], labels) for line in lines]
        if len(answers) != count:
            raise InputError(f"{name}.tsv: {len(answers)} predictions where GLUE's test set has {count} rows")
        rows = [f"{i}\t{answer}\n" for i, answer in enumerate(answers)]
        (target / f"{name}.tsv").write_text("index\tprediction\n" + "".join(rows), encoding="utf-8")
    with zipfile.ZipFile(target / "submission.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in SUBMISSION:
            archive.write(target / f"{name}.tsv", f"{name}.tsv")
    return target / "submission.zip"


def submitted(row: dict, folder: Path, labels: tuple[str, ...] | None) -> str:
    """A row's prediction as GLUE wants it: a score from 0 to 5, the number of a class, or its name."""
    answer = row["predicted"]
    if labels is None:
        return f"{min(max(float(answer), 0.0), 5.0):.3f}"
    if labels is NUMBERS:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        answer = str(config["label2id"].get(answer))
    if answer not in labels:
        raise InputError(f"{folder}: predicts {row['predicted']}; GLUE knows {', '.join(labels)}")
    return answer
