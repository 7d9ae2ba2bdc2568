"""Expected failures: one line on stderr that names the place and the remedy, exit code 2, no traceback."""

import argparse
import errno
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from common.processes import has_lost_others, is_first_to_fail, world_size


class InputError(ValueError):
    """Something the user can mend: a flag, a file, a row, a model name, a folder.

    The message is one sentence: where (file and line or row), what is wrong, what to do.
    """


class OneLineParser(argparse.ArgumentParser):
    """A command line whose complaints are one line and not the whole usage."""

    def error(self, message: str) -> None:
        raise InputError(f"{message}; --help lists the flags")


def check_range(args: Any, low: float, high: float, *names: str) -> None:
    """Refuse flags whose number lies outside, or is none; None is left to the libraries."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not low <= value <= high:  # not a number is in no range
            raise InputError(f"--{name} {value}: must be from {low:g} to {high:g}")


def check_at_least_one(args: Any, *names: str) -> None:
    """Refuse flags that count something and are less than 1."""
    for name in names:
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least 1")


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
    except OSError as error:
        if error.errno == errno.EPIPE:  # `... | head` closed our stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        elif error.errno == errno.ENOSPC:
            fail(f"no space left on the device ({error.filename or 'while writing'}): free some, repeat the command")
        else:
            raise
    except Exception as error:
        if world_size() > 1 and has_lost_others(error):
            fail("another process of this run has ended or is out of reach; the same command resumes")
        if not is_first_to_fail():
            raise SystemExit(1) from None
        raise


def fail(message: str) -> None:
    """Print `error: message` as one line, of several processes the first to fail, and exit with code 2."""
    if is_first_to_fail():
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
