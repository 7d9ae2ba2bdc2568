"""Run a recipe and signal this process at the end of an optimizer step: kill_at_step.py STEP SIGNAL recipe [flags]

SIGNAL is a number; 9@1 is for process 1 of several alone.
"""

import importlib
import os
import sys

from common.errors import run_as_command
from common.runs import CompleteCheckpoints


def main():
    step, number, recipe, *flags = sys.argv[1:]
    number, _, rank = number.partition("@")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == int(step) and rank in ("", os.environ.get("RANK")):
            os.kill(os.getpid(), int(number))

    CompleteCheckpoints.on_step_end = on_step_end
    sys.argv = [recipe, *flags]
    run_as_command(importlib.import_module(f"recipes.{recipe}").main)


if __name__ == "__main__":
    main()
