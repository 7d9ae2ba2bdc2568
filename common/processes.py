"""The processes of one run, as `accelerate launch` and torchrun start them: what only one of them does."""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """What is cached on disk is made by the main process of each machine; the others wait and read it."""
    if world_size() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().local_main_process_first():
        yield


def from_main_process(value: Any) -> Any:
    """The main process's `value`, in every process; whatever can be pickled."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def launcher_store() -> Any:
    """The key-value store of the launcher, there from the start, before the processes are connected."""
    from torch.distributed import TCPStore

    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(*address, is_master=False, timeout=timedelta(seconds=5))


def told_by_main_process(name: str, measure: Callable[[], float]) -> float:
    """What the main process measures, so that all choose alike; without torchrun, which keeps a store, each its own."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or world_size() == 1:
        return measure()
    store = launcher_store()
    if is_main_process():
        store.set(name, str(measure()))
    store.set_timeout(timedelta(minutes=5))
    return float(store.get(name))


def is_first_to_fail() -> bool:
    """Whether no other process of the run has asked this before.

    What stops one process (a flag, a file) mostly stops all, and the end of one breaks the connections of the rest:
    only the first says why.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or world_size() == 1:
        return True
    from torch.distributed import DistError

    try:
        return launcher_store().add(f"failed {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1
    except DistError:  # the machine that keeps the store is gone
        return True


def has_lost_others(error: Exception) -> bool:
    """Whether it was the connection to another process that broke."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error).casefold()
