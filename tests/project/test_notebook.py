"""The notebook runs from top to bottom, but for the cell that installs: this environment has what it installs."""

import os
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(tmp_path, monkeypatch):
    write_kernel_spec(tmp_path / "kernels/python3")  # this environment's Python, whatever kernels the user has
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(PROJECT / "notebooks/tour.ipynb", as_version=4)
    assert [cell.id for cell in notebook.cells if "install" in cell.metadata.get("tags", [])] == ["cell-01"]
    del notebook.cells[1]
    NotebookClient(notebook, kernel_name="python3", timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
