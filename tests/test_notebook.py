"""recipes/quickstart.ipynb: stored without outputs, and runs from its first cell to its last."""

import os
import re

import nbformat
import pytest

from tests.conftest import ROOT

PATH = ROOT / "recipes" / "quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_it_is_stored_valid_and_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert re.search('^REPOSITORY = "', notebook.cells[2].source, re.M)


def test_its_flags_are_those_of_make(notebook):
    """All but the evaluation of every epoch, the test split and the folder."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    wanted = re.search(r"^offline_ner = \$\(call .*?\)(.*)", makefile, re.M).group(1)
    wanted = re.sub(r"\$\(call share,(\d+)\)", r"\1", wanted).split()  # on one device
    given = next(cell.source for cell in notebook.cells if "flags = " in cell.source).split()
    assert [given[given.index(flag) + 1] for flag in wanted[::2]] == wanted[1::2]


@pytest.mark.slow
def test_it_runs(notebook, tmp_path):
    from nbclient import NotebookClient

    if not (ROOT / "models").exists():
        pytest.skip("needs make checkpoint")
    source = notebook.cells[4].source
    notebook.cells[4].source = source.replace("runs/quickstart", str(tmp_path / "run"))
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the debugger's remark, printed among the outputs
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(PATH.parent)}}).execute()
    texts = ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in notebook.cells]
    printed = "\n".join(texts)
    scores = re.search(r"^all .*? (0\.\d+) +\d+$.*?Looking up .*?: f1 (0\.\d+)", printed, re.M | re.S)
    assert float(scores.group(1)) > 0.5 > 2 * float(scores.group(2))
    assert re.search(r"^Ada Lovelace +PER +0 +12 +[01]", printed, re.M)
    assert "7 layers of (1, " in texts[-2]
