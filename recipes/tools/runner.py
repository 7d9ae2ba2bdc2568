"""Runs of recipes as processes, several side by side, each with an accelerator or a share of the cores of its own.

SIGTERM and Ctrl-C reach every run, which saves a checkpoint first; the same command then goes on.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError

# The variable that hides all accelerators but some from a process.
VISIBLE_DEVICES = {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK", "npu": "ASCEND_RT_VISIBLE_DEVICES"}


@dataclass(frozen=True)
class Job:
    """A run to be made: what it is called in the progress, its command, and the folder that the command writes to."""

    name: str
    command: list[str]
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.log"


@dataclass
class Process:
    """A job under way, or ended; `environment` is what it adds to that of this process."""

    job: Job
    environment: dict[str, str]

    def __post_init__(self) -> None:
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        with open(self.job.log, "ab") as file:  # what an interrupted run has said stays
            self.offset = file.tell()
            # A group of its own: a terminal's Ctrl-C would reach it twice, and the second signal ends it at once.
            streams = dict(stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
            environment = {**os.environ, **self.environment}
            self.popen = subprocess.Popen(self.job.command, env=environment, process_group=0, **streams)

    @property
    def output(self) -> str:
        return self.job.log.read_bytes()[self.offset :].decode("utf-8", errors="replace").strip()

    @property
    def error(self) -> str | None:
        """The last line of a run that failed."""
        code, lines = self.popen.returncode, self.output.splitlines()
        return None if code == 0 else lines[-1].removeprefix("error: ") if lines else f"exit code {code}"

    @property
    def is_repeated(self) -> bool:
        return "this run is finished" in self.output


def refuse_owned(passed_on: Sequence[str], owned: dict[str, str]) -> None:
    """Refuse flags, in any spelling, that are set for each run: flag -> what sets it."""
    for word in passed_on:
        flag = word.split("=")[0].replace("-", "_").replace("__", "--", 1)
        if flag in owned:
            raise InputError(f"{flag}: is set for each run; use {owned[flag]}")


def environments(at_once: int | None) -> list[dict[str, str]]:
    """What each of the runs side by side adds to its environment: its accelerator, or its share of the CPU's threads.

    Args:
        at_once: how many; None stands for the number of accelerators, or one run where there is none.
    """
    import torch

    if at_once is not None and at_once < 1:
        raise InputError(f"--jobs {at_once}: must be at least 1")
    count = torch.accelerator.device_count()
    variable = VISIBLE_DEVICES.get(torch.accelerator.current_accelerator().type) if count else None
    if variable:
        devices = os.environ[variable].split(",") if os.environ.get(variable) else [str(i) for i in range(count)]
        return [{variable: devices[i % len(devices)]} for i in range(at_once or len(devices))]
    at_once = at_once or 1
    return [{"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // at_once))} if at_once > 1 else {}] * at_once


def run_jobs(jobs: Sequence[Job], free: Sequence[dict[str, str]] = ({},)) -> Iterator[Process]:
    """Run the jobs in their order, as many at once as there are environments, and give back each as it ends.

    Raises:
        SystemExit: 128 plus the number of the signal that stopped all of them, once the last has ended.
    """
    waiting, free, running, received, passed_on = list(jobs), list(free), [], [], 0
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda n, _: received.append(n)) for number in signals}
    try:
        while running or (waiting and not received):
            while waiting and free and not received:
                running.append(Process(waiting.pop(0), free.pop(0)))
            time.sleep(0.05)
            count = len(received)
            for process in running if count > passed_on else ():
                process.popen.terminate()
            passed_on = count
            for process in [process for process in running if process.popen.poll() is not None]:
                running.remove(process)
                free.append(process.environment)
                if not received:
                    yield process
    finally:
        for process in running:
            process.popen.terminate()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        print("Stopped; the same command goes on.", file=sys.stderr)
        raise SystemExit(128 + received[0])


def run_all(jobs: Sequence[Job], at_once: int | None, scores: Callable[[Job], dict[str, float]]) -> dict[str, str]:
    """Run what is not finished, with a line of progress as each run ends; the error line of each that failed, by name.

    Args:
        at_once: see `environments`.
        scores: of a job that has ended, to be shown.

    Raises:
        InputError: all have failed.
    """
    failed, began, fresh = {}, time.monotonic(), 0
    for number, process in enumerate(run_jobs(jobs, environments(at_once)), 1):
        name, error, now = process.job.name, process.error, time.monotonic()
        if error:
            failed[name], outcome = error, f"FAILED: {error}"
        else:
            outcome = ", ".join(f"{key} {value:.4f}" for key, value in scores(process.job).items())
        fresh += not process.is_repeated
        took = "finished before" if process.is_repeated else f"{(now - process.began) / 60:.1f} min"
        left = (now - began) / (fresh or number) * (len(jobs) - number) / 60
        print(f"[{number}/{len(jobs)}] {name}: {outcome} ({took}; about {left:.0f} min left)", flush=True)
    if len(failed) == len(jobs):
        raise InputError(f"no run has succeeded; {name}: {error}; its log is {process.job.log}")
    return failed


def write_tables(
    folder: Path, name: str, settings: Any, record: dict[str, Any], text: str, failed: dict[str, str], more: str = ""
) -> None:
    """Write and print the table of some settings, and link the newest: `glue.md` to `glue-1a2b3c4d.md`, and the .json
    likewise. A table of the same settings that has more runs stays.

    Args:
        settings: whatever makes it another table.
        record: what becomes the .json; `finished_runs` is the number of runs in the table.
        text: what is printed, and becomes the .md.
        failed: of `run_all`.
        more: what the .md has beside it.

    Raises:
        InputError: runs have failed; the table of the others is written.
    """
    text = "\n".join([text, *(f"{job}: failed: {error}" for job, error in failed.items())])
    digest = hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:8]
    path = folder / f"{name}-{digest}.json"
    if not (path.exists() and json.loads(path.read_text(encoding="utf-8"))["finished_runs"] > record["finished_runs"]):
        files = {".md": f"```\n{text}\n```\n{more}", ".json": json.dumps(record, indent=1, default=str) + "\n"}
        for suffix, content in files.items():
            path.with_suffix(suffix).write_text(content, encoding="utf-8")
            link = folder / f"{name}{suffix}"
            link.unlink(missing_ok=True)
            link.symlink_to(path.with_suffix(suffix).name)
    print(f"\n{text}\n\nIn {path.with_suffix('.md')}; each run has a folder and a log in {folder}.")
    if failed:
        total = len(failed) + record["finished_runs"]
        raise InputError(f"{len(failed)} of {total} runs failed; their logs are in {folder}")
