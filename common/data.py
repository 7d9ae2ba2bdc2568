"""Hub name, local folder or files -> named splits, checked; every complaint names the file and the row.

Files are read row by row into Arrow tables on disk, so memory does not grow with them. The cache is keyed by the
content of the file and of this package's code: an edit of either is never answered with a stale copy.
"""

import codecs
import csv
import functools
import hashlib
import inspect
import io
import json
import logging
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError, hub_errors, main_process_first

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

log = logging.getLogger("recipes")
Row = tuple[str, dict[str, Any]]  # where it stands ("line 812", "row 3") and what it holds
CONLL_SUFFIXES = (".conll", ".txt", ".iob", ".iob2", ".bio")
SPLIT_NAMES = {
    "train": ["train"],
    "validation": ["validation", "dev", "valid", "val", "validation_matched"],
    "validation_mismatched": ["validation_mismatched"],  # MNLI's second validation split, of other genres than train
    "test": ["test"],
}
SPANS = '{"text": "Ada ran", "entities": [{"start": 0, "end": 3, "label": "PER"}]}'  # for messages
PREFIXES = "BIESLUM"  # of tags: BIO, IOB1, BIOES, BILOU and BMES
HELD_OUT_SHARE = 0.1
COMMENTS = ("# ", "#\t")  # how lines of comment begin in a file of columns
SPANS_OF_WORDS = re.compile(r"\d+[-.]\d+")  # in the first column of CoNLL-U: several words in one, or none


# Files to rows


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line of a UTF-8 file, or of a UTF-16 file that begins with its mark, without the
    line end; a byte order mark is dropped. Lines may end in a carriage return alone, as on the classic Mac."""
    with open_binary(path) as file:
        yield from decode_lines(file, path)


def decode_lines(file: Any, name: str) -> Iterator[tuple[int, str]]:
    """`read_lines` of a binary file that is open already; `name` is for messages."""
    start = file.peek() if hasattr(file, "peek") else b""
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    lines = io.TextIOWrapper(file, encoding, newline="\n") if encoding == "utf-16" else file
    if lines is file and b"\r" in start[:-1] and b"\n" not in start:
        lines = file.read().splitlines()
    number = 0
    try:
        for number, raw in enumerate(lines, 1):
            line = raw if isinstance(raw, str) else raw.decode(encoding if number == 1 else "utf-8")
            if "\0" in line:
                raise InputError(f"{name}, line {number}: holds a NUL byte; is this a text file?")
            yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise InputError(f"{name}, line {number + 1}: broken UTF-16; save the file as UTF-8") from None
        byte = error.object[error.start]
        old = "cp1252" if 0x80 <= byte <= 0x9F else "latin1"  # which has control characters there
        remedy = f"convert it, for instance with iconv -f {old} -t utf-8"
        raise InputError(f"{name}, line {number}: not UTF-8 (byte {byte:#04x}); {remedy}") from None


def open_binary(path: str):
    """Open a file that the user named, or say in one line why it cannot be."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name a file that can be read") from None


def is_tag(text: str) -> bool:
    """Whether a tag is O or has a prefix that a scheme knows.

    >>> is_tag("B-PER"), is_tag("O"), is_tag("X-PER"), is_tag("NOUN")
    (True, True, False, False)
    """
    prefix, _, entity_type = text.partition("-")
    return text == "O" or (len(prefix) == 1 and prefix in PREFIXES and entity_type != "")


def split_columns(line: str) -> list[str]:
    """With tabs, a word may hold a blank; an empty trailing tag is then a ragged line, not a shorter one."""
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def odd_blanks(text: str) -> str:
    """What only looks like a blank or like nothing in a text, for messages.

    >>> odd_blanks("Jo" + chr(160) + "B-PER"), odd_blanks("ran O"), odd_blanks("ran" + chr(9))
    (' (with NO-BREAK SPACE)', '', ' (with a tab at the end)')
    """
    names = sorted({unicodedata.name(c) for c in text if c != " " and unicodedata.category(c) in ("Zs", "Cf")})
    names += ["a tab at the end"] if text.endswith("\t") else []
    return f" (with {', '.join(names)})" if names else ""


def counts_words(path: str) -> bool:
    """Whether the first of three or more columns counts the words of each sentence from 1, in the first 1000 lines."""
    number, longest = 0, 0
    for _, line in islice(read_lines(path), 1000):
        fields = split_columns(line)
        if not line.strip() or line.startswith(COMMENTS) or fields[0] == "-DOCSTART-":
            number = 0
        elif not SPANS_OF_WORDS.fullmatch(fields[0]):
            number += 1
            longest = max(longest, number)
            if len(fields) < 3 or fields[0] != str(number):
                return False
    return longest > 1


def read_conll(path: str) -> Iterator[Row]:
    """Sentences of a column file: the first column the word, the last the tag, tabs or blanks, empty lines between.

    `-DOCSTART-` lines part documents. A line before a sentence that starts with `#` and a blank or a tab, and is not
    made like the others, is a comment (CoNLL-U). A file with one column holds words without tags. Where the first of
    several columns counts the words, the second holds them. Each row has `tokens`, `ner_tags` (unless one column),
    `document` (-1 where unmarked), `lines`, the line number of each token, and `columns`, all of them.
    """
    columns, document, is_counted = None, -1, counts_words(path)
    words: list[list[str]] = []
    lines: list[int] = []

    def sentence() -> Row:
        by_column = [list(column) for column in zip(*words, strict=True)]
        row = {"tokens": by_column[is_counted], "document": document, "lines": lines, "columns": by_column}
        row |= {"note": "column 1 counts the words; column 2 holds them"} if is_counted else {}
        return f"line {lines[0]}", row | ({"ner_tags": by_column[-1]} if columns != 1 else {})

    for number, line in read_lines(path):
        fields = split_columns(line)
        if not line.strip() or fields[0] == "-DOCSTART-":
            if words:
                yield sentence()
                words, lines = [], []
            document += bool(line.strip())
            continue
        is_odd = len(fields) != columns if columns else len(fields) > 2 or not is_tag(fields[-1])
        if line.startswith(COMMENTS) and not words and (is_odd or is_counted):
            continue
        if is_counted and SPANS_OF_WORDS.fullmatch(fields[0]):
            continue
        columns = columns or len(fields)
        if len(fields) != columns:
            counts = f"{len(fields)} columns{odd_blanks(line)} where the lines before have {columns}"
            remedy = "a line is a word first and its tag last; a text and its label go into .tsv, .csv or .jsonl"
            raise InputError(f"{path}, line {number}: {counts}; {remedy}")
        words.append([field.strip() for field in fields])
        lines.append(number)
    if words:
        yield sentence()


def read_delimited(path: str, has_header: bool = True) -> Iterator[Row]:
    """Rows of a CSV or TSV file whose first line names the columns; those without a name are called by their number, as
    all are where there is no such line. All values are text; rows of empty cells, as Excel leaves them, are no rows.

    In a .tsv a quote is often just a quote (dialogue cut into sentences): where quotes would make one row of several,
    they are read as characters. A .csv in which they do is refused.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses fields over 128 KiB
    delimiter = find_delimiter(path, has_header)
    fault, quoting = quote_fault(path, delimiter, file_digest(path)), csv.QUOTE_MINIMAL
    if fault and delimiter == "\t":
        log.warning("%s, %s; quotes are read as characters.", path, fault)
        quoting = csv.QUOTE_NONE
    elif fault:
        raise InputError(f"{path}, {fault}; double a quote within a text, or leave it out")
    lines = (line + "\n" for _, line in read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
    rows = (row for row in reader if (any(row) or len(row) == 1) and row[0] != "sep=")  # which is for Excel alone
    try:
        first = next(rows, [])
        header = [(has_header and name) or str(i) for i, name in enumerate(first, 1)]
        if len(set(header)) != len(header):
            raise InputError(f"{path}, line 1: a column name occurs twice in {header}; rename one, or add --no_header")
        for fields in chain([first] if first and not has_header else [], rows):
            if len(fields) != len(header):
                counts = f"{len(fields)} fields, but the first line has {len(header)}"
                remedy = "quote a field with the delimiter, name every column, or call words and tags .conll"
                raise InputError(f"{path}, line {reader.line_num}: {counts}; {remedy}")
            yield f"line {reader.line_num}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from None


def find_delimiter(path: str, has_header: bool) -> str:
    """A tab in a .tsv and a comma in a .csv, unless the first line has more tabs; or none of these, and column names
    with another delimiter between them (Excel's semicolon in countries with a decimal comma)."""
    usual = "\t" if path.lower().endswith(".tsv") else ","
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    return max([usual, *("\t;,|" if has_header and usual not in first else "\t")], key=first.count)


@functools.lru_cache(maxsize=16)
def quote_fault(path: str, delimiter: str, digest: str) -> str | None:
    """What is wrong with the quotes of a file, and where: they break its form, or make one row of several. Kept for the
    content that `digest` stands for: a file is opened more than once in a run, and this parses all of it.

    The latter is so where each line of a row has as many fields as the header if quotes are mere characters, and all of
    them, in one column, a value that rows of a single line have there too (such as the label).
    """
    lines: list[str] = []  # of the row that is read

    def recorded() -> Iterator[str]:
        for _, line in read_lines(path):
            lines.append(line)
            yield line + "\n"

    reader = csv.reader(recorded(), delimiter=delimiter, strict=True)
    suspects: list[tuple[str, list[list[str]]]] = []
    values: list[set[str]] = []
    try:
        for fields in reader:
            values = values or [set() for _ in fields]
            of_lines = [line.split(delimiter) for line in lines]
            if len(lines) > 1 < len(values) and all(len(row) == len(values) for row in of_lines):
                suspects.append((f"lines {reader.line_num - len(lines) + 1} to {reader.line_num}", of_lines))
            for known, value in zip(values, fields, strict=False):
                known |= {value} if 0 < len(value) < 100 and "\n" not in value else set()
            lines.clear()
    except csv.Error as error:
        return f"line {reader.line_num}: a quote before it is not closed, or not doubled ({error})"
    for place, rows in suspects:
        if any(all(value in known for value in column) for known, *column in zip(values, *rows, strict=True)):
            return f"{place}: quotes make one row of these lines"
    return None


def read_json(path: str) -> Iterator[Row]:
    """Rows of a JSON file: a list of objects, an object with a list under `data`, or one object a line. Pairs of a text
    and an object (spaCy 2) are rows too; what Prodigy's user has rejected or ignored is left out."""

    def parsed(text: str, number: int) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number + error.lineno - 1}: broken JSON ({error.msg})") from None
        except RecursionError:
            raise InputError(f"{path}, line {number}: JSON nested too deeply for a table of rows") from None

    filled = (line.strip() for _, line in read_lines(path) if line.strip())
    first, second = next(filled, ""), next(filled, "")
    is_object_a_line = first.startswith("{") and first.endswith("}") and second.startswith("{")
    if path.endswith(".json") and first.startswith(("[", "{")) and not is_object_a_line:
        document = parsed("\n".join(line for _, line in read_lines(path)), 1)
        rows = document.get("data", [document]) if isinstance(document, dict) else document
        # pandas' other forms: objects of a column each, or of a row each.
        is_nested = rows is not document and len(document) > 1 and all(isinstance(of, dict) for of in document.values())
        if is_nested or not isinstance(rows, list):
            raise InputError(f'{path}: not a list of rows, alone or as "data"; in pandas to_json(orient="records")')
        placed = ((f"row {i}", row) for i, row in enumerate(rows, 1))
    else:
        placed = ((f"line {i}", parsed(line, i)) for i, line in read_lines(path) if line.strip())
    rejected = 0
    for place, row in placed:
        if isinstance(row, list) and [type(value) for value in row] == [str, dict]:  # of spaCy 2
            row = {"text": row[0], **row[1]}
        if not isinstance(row, dict):
            raise InputError(f"{path}, {place}: a {type(row).__name__} where an object with named fields is needed")
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}, {place}: a text holds half of a surrogate pair (a cut emoji); mend it") from None
        if "_task_hash" in row and row.get("answer") in ("reject", "ignore"):  # of Prodigy
            rejected += 1
        else:
            yield place, row
    if rejected:
        log.warning("%s: %d rows whose answer is reject or ignore are left out.", path, rejected)


def read_arrow(path: str) -> Iterator[Row]:
    """Rows of a Parquet file, or of an .arrow file as `datasets` writes it; integers of a column that carries class
    names become those names."""
    import pyarrow.parquet
    from datasets import Features

    kind = "Parquet file" if path.lower().endswith(".parquet") else "Arrow stream, as save_to_disk writes it"
    try:
        with open_binary(path) as file:
            if kind == "Parquet file":
                table = pyarrow.parquet.ParquetFile(file)
                schema, batches = table.schema_arrow, table.iter_batches(1000)
            else:
                batches = pyarrow.ipc.open_stream(file)
                schema = batches.schema
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from with_class_names(rows, Features.from_arrow_schema(schema))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable {kind} ({' '.join(str(error).split())[:120]})") from None


def with_class_names(rows: Iterable[dict[str, Any]], features: "Features") -> Iterator[Row]:
    """Rows with their number, and names instead of integers in each column that is, or lists, a `ClassLabel`.

    >>> from datasets import ClassLabel, Features, List
    >>> features = Features(ner_tags=List(ClassLabel(names=["O", "B-PER"])))
    >>> list(with_class_names([{"ner_tags": [0, 1]}], features))
    [('row 1', {'ner_tags': ['O', 'B-PER']})]
    """
    inner = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    names = {column: feature.names for column, feature in inner.items() if hasattr(feature, "names")}

    def named(value: Any, names: list[str]) -> Any:
        if isinstance(value, list):
            return [named(item, names) for item in value]
        if value == -1:
            return "-"  # withheld
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else value

    for number, row in enumerate(rows, 1):
        yield f"row {number}", row | {column: named(row[column], names[column]) for column in names}


def read_rows(path: str, has_header: bool = True) -> Iterator[Row]:
    """Rows of a file by its ending: a table, or CoNLL columns (`CONLL_SUFFIXES`)."""
    suffix = Path(path).suffix.lower()
    if suffix in (".ann", ".spacy") or (suffix == ".txt" and Path(path).with_suffix(".ann").exists()):
        raise InputError(f"{path}: write JSON lines instead, such as {SPANS}; spaCy's doc.to_json() will do")
    if suffix in (".csv", ".tsv"):
        return read_delimited(path, has_header)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return read_json(path)
    if suffix in (".parquet", ".arrow"):
        return read_arrow(path)
    if suffix in CONLL_SUFFIXES:
        return read_conll(path)
    open_binary(path).close()
    known = ".csv .tsv .jsonl .json .parquet .arrow, and for words and tags .conll .iob .bio .txt"
    raise InputError(f'{path}: unknown ending "{suffix}"; known are {known}')


# Where the rows of a split come from


@dataclass
class Source:
    """A split before it is parsed: `path` names a file, `dataset` holds rows from the Hub or a local folder, or the
    rows were `given`."""

    name: str  # as messages show it
    digest: str  # of the content
    path: str | None = None
    dataset: Any = None
    given: Iterable[Row] = ()
    has_header: bool = True

    def rows(self) -> Iterator[Row]:
        if self.path is not None:
            yield from read_rows(self.path, self.has_header)
        elif self.dataset is None:
            yield from self.given
        else:
            yield from with_class_names(self.dataset, self.dataset.features)


def find_sources(args: Any, training_args: Any) -> dict[str, Source]:
    """The splits that a run uses, by what it does: those that `--{split}_file` names or, without any file, those that
    `--dataset_name` holds.

    Args:
        args: a recipe's arguments with `dataset_name`, `dataset_config_name` and a `{split}_file` for each split.
        training_args: `do_train`, `do_eval` and `do_predict` are read.
    """
    needed = ["train"] * training_args.do_train + ["validation", "validation_mismatched"] * training_args.do_eval
    needed += ["test"] * training_args.do_predict
    files = {split: getattr(args, f"{split}_file", None) for split in SPLIT_NAMES}
    if any(files.values()):
        if "train" in needed and not files["train"]:
            raise InputError("--train_file is missing: name one, or evaluate a trained model with --do_train false")
        header = not args.no_header
        sources = {
            split: Source(files[split], f"{file_digest(files[split])} {header}", path=files[split], has_header=header)
            for split in needed
            if files[split]
        }
    else:
        from datasets import load_dataset, load_from_disk

        # By `save_to_disk`, all splits or one.
        is_saved = any(Path(args.dataset_name, name).exists() for name in ("dataset_dict.json", "state.json"))
        with hub_errors("dataset", args.dataset_name):
            loaded = (load_from_disk if is_saved else load_dataset)(
                args.dataset_name, *([] if is_saved else [args.dataset_config_name])
            )
        loaded = loaded if isinstance(loaded, dict) else {"train": loaded}
        names = {split: next((name for name in SPLIT_NAMES[split] if name in loaded), None) for split in needed}
        if "train" in needed and not names["train"]:
            raise InputError(f'{args.dataset_name}: has no split "train", only {", ".join(loaded)}')
        sources = {
            split: Source(f"{args.dataset_name} ({name})", loaded[name]._fingerprint, dataset=loaded[name])
            for split, name in names.items()
            if name
        }
    if not sources:
        raise InputError("no split to work on: name --train_file, --validation_file or --test_file")
    return sources


def file_digest(path: str) -> str:
    """SHA-256 of a file's bytes."""
    with open_binary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def code_digest() -> str:
    """SHA-256 over the source files of `common`: what a cached table or a finished run was made with. The tools, which
    show what is finished, are not among them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def source_digest(function: Callable) -> str:
    """Of the code that a cached table is made with: `common`, and the file that the function stands in, which may be a
    copied recipe; in a notebook the function itself."""
    from datasets.fingerprint import Hasher

    try:
        return code_digest() + file_digest(inspect.getsourcefile(function))
    except (TypeError, InputError):  # neither a file
        return code_digest() + Hasher.hash(function)


def build_dataset(
    source: Source, parse: Callable[..., Iterator[dict]], features: "Features", **options: Any
) -> "Dataset":
    """Parse a source into an Arrow table on disk.

    Args:
        parse: generator function of (source, **options) that yields rows of `features`, and raises `InputError`.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError
    from datasets.fingerprint import Hasher

    # from_generator takes a list among the arguments for shards, and hands the generator one item of it at a time.
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    fingerprint = Hasher.hash(
        [source.name, source.digest, source_digest(parse), parse.__name__, sorted(options.items())]
    )
    try:
        dataset = Dataset.from_generator(
            parse, features=features, gen_kwargs={"source": source, **options}, fingerprint=fingerprint
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, (InputError, OSError)):
            raise error.__cause__ from None
        raise
    except ValueError as error:
        if "corresponds to no data" in str(error):  # what an empty generator gives
            raise InputError(f"{source.name}: holds no rows; check the file and its format") from None
        raise
    dataset.info.description = source.name  # for `source_name`
    return dataset


def content_fingerprint(datasets: "DatasetDict") -> dict[str, str]:
    """A digest of the rows of each split, wherever they came from and in whatever form."""
    fingerprints = {}
    for split, dataset in datasets.items():
        digest = hashlib.sha256()
        for row in columns(dataset, *(name for name in dataset.column_names if name not in ("place", "note"))):
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
        fingerprints[split] = digest.hexdigest()[:16]
    return fingerprints


def map_cached(dataset: "Dataset", function: Callable, tokenizer: Any, desc: str, **options: Any) -> "Dataset":
    """`dataset.map` in batches, cached under the content of what shapes its result.

    `datasets` hashes the pickled function: for one that is imported that is its name, so an edit of this package
    would be answered with the old features; and a tokenizer with its folder, so a trained model's would be another.
    """
    from datasets.fingerprint import Hasher

    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # what the last call left in it; the next one sets its own
    backend.no_padding()
    # What the Python side of a tokenizer adds to the same backend: DistilBERT's gives no token types, BERT's does.
    wrapper = [type(tokenizer).__name__, tokenizer.model_input_names, tokenizer.truncation_side]
    code = [source_digest(function), function.__name__, version("transformers")]
    workers = min(os.cpu_count() or 1, len(dataset) // 50_000)  # a process pays only for large inputs
    with main_process_first():
        return dataset.map(
            function,
            batched=True,
            with_indices=True,
            remove_columns=dataset.column_names,
            fn_kwargs={"tokenizer": tokenizer, **options},
            num_proc=workers if workers > 1 else None,
            new_fingerprint=Hasher.hash(
                [dataset._fingerprint, code, backend.to_str(), wrapper, sorted(options.items())]
            ),
            desc=desc,
        )


def load_splits(
    sources: dict[str, Source], parse: Callable[..., Iterator[dict]], features: "Features", **options: Any
) -> "DatasetDict":
    """The splits, parsed and checked, with what was doubtful in them printed; see `build_dataset`."""
    from datasets import DatasetDict

    with main_process_first():
        datasets = DatasetDict({s: build_dataset(source, parse, features, **options) for s, source in sources.items()})
    for split, source in sources.items():
        report_notes(source.name, datasets[split])
    return datasets


def hold_out(
    dataset: "Dataset",
    seed: int,
    groups: list,
    texts: list[str],
    kinds: list[set[str]],
    classes: list[str] | None = None,
) -> dict[str, "Dataset"]:
    """A seeded tenth of the training rows as validation split: whole groups, and no text on both sides.

    Args:
        groups: of each row, what must not be parted (a document, a text).
        texts: of each row; held-out rows whose text stands in train as well are left out of both.
        kinds: of each row, the labels in it; a group with one that occurs nowhere else stays in train.
        classes: of each row, to hold out of every class its share; None draws at random.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    # scikit-learn wants as many rows in the largest class as there are parts.
    largest = len(groups) if classes is None else max(Counter(classes).values())
    parts = min(round(1 / HELD_OUT_SHARE), len(set(groups)), largest)
    if parts < 2:
        raise InputError("--validation_file is missing, and train is too small to hold a part of it out")
    splitter = (GroupKFold if classes is None else StratifiedGroupKFold)(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings(action="ignore"):  # scikit-learn's, about classes with fewer rows than parts
        train, held_out = (part.tolist() for part in next(splitter.split(groups, classes, groups)))
    known = set().union(*(kinds[i] for i in train))
    stay = {groups[i] for i in held_out if not kinds[i] <= known}
    train = sorted(train + [i for i in held_out if groups[i] in stay])
    kept = {texts[i] for i in train}
    held_out = [i for i in held_out if groups[i] not in stay]
    unseen = [i for i in held_out if texts[i] not in kept]
    if not unseen:
        raise InputError("--validation_file is missing, and no row of train can be held out; name one")
    repeated = len(held_out) - len(unseen)
    left_out = f"; {repeated} more repeat a text of train and are left out" if repeated else ""
    held = f"{len(unseen)} of {len(dataset)} training rows are held out for it (seed {seed}{left_out})"
    log.info("No validation file: %s.", held)
    return {"train": dataset.select(train), "validation": dataset.select(unseen)}


def take_rows(datasets: "DatasetDict", args: Any) -> "DatasetDict":
    """For a quick look: the first `--max_{train,eval,predict}_samples` rows of the splits; None takes all."""
    limits = {"train": args.max_train_samples, "test": args.max_predict_samples}
    for split, dataset in list(datasets.items()):
        limit = limits.get(split, args.max_eval_samples)
        if limit is not None:
            datasets[split] = dataset.select(range(min(limit, len(dataset))))
    return datasets


def report_notes(name: str, dataset: "Dataset") -> None:
    """Say once per kind what was converted or looks doubtful while reading, with the count and the first places."""
    places: dict[str, list[str]] = {}
    for place, note in columns(dataset, "place", "note"):
        if note:
            places.setdefault(note, []).append(place)
    for note, noted in places.items():
        first = ", ".join(noted[:5]) + (", ..." if len(noted) > 5 else "")
        log.warning("%s: %s (%d rows: %s)", name, note, len(noted), first)


def column(dataset: "Dataset", name: str) -> Iterator[Any]:
    """The values of a column, a thousand in memory at a time: 2 µs a row, where iterating `dataset[name]` takes 60."""
    return (value for (value,) in columns(dataset, name))


def columns(dataset: "Dataset", *names: str) -> Iterator[tuple]:
    """The values of several columns, a tuple per row.

    >>> from datasets import Dataset
    >>> list(columns(Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}), "label", "text"))
    [(0, 'a'), (1, 'b')]
    """
    for block in dataset.select_columns(list(names)).with_format("arrow").iter(1000):
        yield from zip(*(block[name].to_pylist() for name in names), strict=True)


def source_name(dataset: "Dataset", split: str) -> str:
    """The file or the Hub's name that a split was read from, as `common.data` noted it; else the split's own."""
    return dataset.info.description or split


# Values of rows and splits, checked


def text_of(where: str, row: dict[str, Any], name: str) -> str:
    """The text in a column of a row."""
    if name not in row:
        raise InputError(f'{where}: has no "{name}", only {", ".join(row)}; add it, or delete the row')
    if not isinstance(row[name], str):
        raise InputError(f'{where}: "{name}" is not a text ({type(row[name]).__name__}); write one, or delete the row')
    return row[name]


def has_gold(dataset: "Dataset", name: str) -> bool:
    """Whether the split has the gold values `name`: all rows or none, for each task's checks have seen to it."""
    return dataset[0][name] is not None


def check_all_or_none(datasets: "DatasetDict", name: str, remedy: str) -> None:
    """Refuse rows that lack the gold value `name`; a test split may have none at all."""
    for split, dataset in datasets.items():
        lacking = [place for place, value in columns(dataset, "place", name) if value is None]
        if lacking and (split != "test" or len(lacking) < len(dataset)):
            raise InputError(f"{source_name(dataset, split)}, {lacking[0]}: {remedy}")


def check_names(
    datasets: "DatasetDict", name: str, names_in: Callable[[Any], Iterable[str]], known: Collection[str], kind: str
) -> None:
    """Refuse a label or entity type that training has not seen, and warn of two that differ in case alone.

    Args:
        name: the column of the gold values.
        names_in: the names in one of these.
        known: those of the training data.
        kind: what they are called in messages.
    """
    for one, other in pairwise(sorted(known, key=str.casefold)):
        if one.casefold() == other.casefold():
            log.warning("Warning: %s and %s are two %ss, which differ in upper and lower case alone.", one, other, kind)
    for split, dataset in datasets.items():
        for place, value in columns(dataset, "place", name):
            names = () if value is None else names_in(value)
            unknown = next((of for of in names if of not in known), None)
            if unknown is not None:
                raise InputError(
                    f'{source_name(dataset, split)}, {place}: {kind} "{unknown}" does not occur in train '
                    f"({', '.join(sorted(known))}); add examples of it there, or rename it"
                )


def without_values(dataset: "Dataset", name: str) -> "Dataset":
    """The split with None in a column of gold values that says nothing."""
    return dataset.remove_columns(name).add_column(name, [None] * len(dataset), feature=dataset.features[name])


# What is said of a split


def repetitions(datasets: "DatasetDict", *names: str) -> dict[str, tuple[int, int | None]]:
    """Of each split the rows that repeat one of its own and those that also stand in train, judged by the columns
    `names`; None for train itself and without one.

    >>> from datasets import Dataset
    >>> splits = {"train": ["a", "b"], "test": ["b", "b"]}
    >>> repetitions({split: Dataset.from_dict({"text": texts}) for split, texts in splits.items()}, "text")
    {'train': (0, None), 'test': (1, 2)}
    """
    # Hashes instead of texts: memory does not grow with the file.
    hashes = {split: [hash(repr(values)) for values in columns(dataset, *names)] for split, dataset in datasets.items()}
    train = set(hashes.get("train", ()))
    return {
        split: (len(of) - len(set(of)), sum(value in train for value in of) if train and split != "train" else None)
        for split, of in hashes.items()
    }


def window_facts(
    dataset: "Dataset", windows: "Dataset", in_train: int | None, lengths: str = "length"
) -> dict[str, Any]:
    """What every task says of a split.

    Args:
        windows: the model's inputs, with the `row` of `dataset` that each shows.
        lengths: the column of `windows` with their word pieces.

    Returns:
        `rows` and `windows`, their numbers; `windowed`, rows that are read in several; `pieces` of a window, the mean,
        and `longest`, which 99 % do not exceed; `lengths`, how many of them lie in each step of 8; `in_train`.
    """
    pieces = windows[lengths][:]
    ordered = sorted(pieces)
    return {
        "rows": len(dataset),
        "windows": len(pieces),
        "windowed": sum(count > 1 for count in Counter(column(windows, "row")).values()),
        "pieces": sum(pieces) / len(pieces),
        "longest": ordered[int(0.99 * (len(pieces) - 1))],
        "lengths": dict(sorted(Counter(length // 8 * 8 for length in pieces).items())),
        "in_train": in_train,
    }
