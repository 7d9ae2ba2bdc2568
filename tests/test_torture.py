"""The short form of `make torture`."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_two_rounds_of_killing_and_resuming_end_as_the_undisturbed_run():
    command = [sys.executable, "-m", "tests.torture", "--rounds", "2", "--recipes", "ner", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ner: 2 rounds" in done.stdout and "0 mismatches" in done.stdout
