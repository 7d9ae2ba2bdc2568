"""Expected failures in one line; the Hub, or its absence; which of several processes speaks."""

import argparse
import errno
import logging
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

log = logging.getLogger("recipes")
PROBE_SECONDS = 4.0


class InputError(ValueError):
    """Something the user can mend: a flag, a file, a row, a model name, a folder.

    The message is one sentence: where (file and line or row), what is wrong, what to do.
    """


class OneLineParser(argparse.ArgumentParser):
    """A command line without abbreviations, whose complaints are one line and not the whole usage, and whose help
    keeps the lines of its description."""

    def __init__(self, *args: Any, **options: Any):
        options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False} | options
        super().__init__(*args, **options)

    def error(self, message: str) -> None:
        raise InputError(f"{message}; --help lists the flags")


def check_range(args: Any, low: float, high: float, *names: str) -> None:
    """Refuse flags whose number lies outside, or is none; None is left to the libraries."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not low <= value <= high:  # not a number is in no range
            limits = f"from {low:g} to {high:g}" if high < float("inf") else f"at least {low:g}"
            raise InputError(f"--{name} {value}: must be {limits}")


def check_at_least_one(args: Any, *names: str) -> None:
    """Refuse flags that count something and are less than 1."""
    check_range(args, 1, float("inf"), *names)


def run_as_command(main: Callable[[], object]) -> None:
    """Run `main()` as a command: an `InputError` becomes one line and exit code 2, a bug keeps its traceback."""
    try:
        main()
    except InputError as error:
        fail(str(error))
    except pickle.UnpicklingError:  # by torch.load(weights_only=True), which runs nothing
        fail("the checkpoint holds more than numbers and is not loaded; name another with --resume_from_checkpoint")
    except KeyboardInterrupt:  # outside training, which saves a checkpoint first
        if is_first_to_fail():
            print("Interrupted; the same command goes on where it can.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `... | head` closed our stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        # Each library says in its own way that the disk is full; the last two are torch.save's.
        if any(words in str(error) for words in ("No space left", "unexpected pos", "file write failed")):
            fail("no space left on the device; free some and repeat the command")
        if world_size() > 1 and has_lost_others(error):
            fail("another process of this run has ended or is out of reach; the same command resumes")
        if isinstance(error, (ImportError, RuntimeError, ValueError)) and "install" in str(error).lower():
            fail(str(error))  # a tracker, an optimizer or a launcher whose package is not there, in the library's words
        if not is_first_to_fail():
            raise SystemExit(1) from None
        raise


def fail(message: str) -> None:
    """Print `error: message` as one line, of several processes the first to fail, and exit with code 2."""
    if is_first_to_fail():
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
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


def check_cache() -> None:
    """
    Raises:
        InputError: the libraries' cache cannot be written, as where a container's user has no home.
    """
    import tempfile

    import datasets

    cache = os.fspath(datasets.config.HF_DATASETS_CACHE)
    try:
        if cache.startswith("~"):  # what is left where nobody knows the home
            raise NotADirectoryError(errno.ENOENT, "there is no home folder")
        os.makedirs(cache, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise InputError(f"{cache}: {error.strerror}; set HF_HOME to a folder that you can write to") from None


def hub_answers(timeout: float = PROBE_SECONDS) -> bool:
    """Whether the Hub (or the mirror in `HF_ENDPOINT`) answers any HTTP status within `timeout` seconds."""
    import huggingface_hub
    from huggingface_hub.utils import get_session

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    responses = []

    def probe() -> None:
        with suppress(Exception):  # whatever the HTTP library of this version raises: no route, a refused proxy
            responses.append(get_session().head(huggingface_hub.constants.ENDPOINT, timeout=timeout))

    # The library's timeout is for each of several phases, and looking up a name has none.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(responses)


def go_offline_without_hub(*names: str | None) -> None:
    """Switch the libraries to their local cache when one of `names` must come from the Hub and it does not answer.

    Without this `load_dataset` retries for 24 s and `from_pretrained` for 49 s before they give up. A `name` that is
    a local path, or None, needs no Hub.
    """
    if all(name is None or os.path.exists(name) for name in names) or hub_answers():
        return
    import datasets
    import huggingface_hub

    log.warning("The Hugging Face Hub does not answer: only local files and the cache are used.")
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


@contextmanager
def hub_errors(kind: str, name: str) -> Iterator[None]:
    """Turn the libraries' many ways of saying "`name` cannot be loaded" into one `InputError` with the remedies. Of
    several processes one on each machine downloads; the others read the cache.

    Args:
        kind: "model", "tokenizer" or "dataset", for the message.
        name: the Hub name or local path that was asked for.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    try:
        with main_process_first():
            yield
    except InputError:
        raise
    # ValueError: an unknown configuration or model type, broken JSON; RuntimeError: weights of another shape. Any other
    # error is a bug, and keeps its traceback.
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, DatasetsError, SafetensorError) as error:
        # Weights of another shape and datasets that are programs are said by one; else it is a bug.
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in ("mismatch", "scripts")):
            raise
        reason = " ".join(str(error).split())[:200]
        if os.path.isdir(name) or hub_answers():
            raise InputError(f"{name}: cannot be loaded as a {kind}: {reason}; check the name or log in") from error
        cache = os.environ.get("HF_HOME", "unset")
        raise InputError(
            f'the {kind} "{name}" is neither a local path nor in the cache (HF_HOME={cache}), and the Hub does not '
            "answer: add OFFLINE=1 to make for the bundled sample and checkpoint, give a local path, or set HF_HOME "
            "to a folder that holds it"
        ) from error
