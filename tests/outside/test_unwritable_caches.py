"""A container that runs as any user: no home, no entry in passwd, no cache that can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from subcell_hf.extras import import_compiled
from subcell_hf.report import projection
from subcell_hf.report.page import write_report
from subcell_hf.report.projection import project_cells
from tests.inference.embedding_runs import run, save_tiny_model, write_fields

ROOT = Path(__file__).parents[2]
PROJECT = """
import numpy as np
from subcell_hf.report.projection import project_cells
print(project_cells(np.random.default_rng(0).normal(size=(40, 8)).astype("f4"), 0).method)
"""


def test_numba_gets_a_temporary_cache_where_it_finds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    (tmp_path / "compiled_cells.py").write_text(
        "from pathlib import Path\nimport numba\n"
        "if not Path(numba.config.CACHE_DIR or 'missing').is_dir():\n"
        "    raise RuntimeError(\"cannot cache function 'rdist': no locator available for file 'x.py'\")\n"
        "answer = 42\n"
    )
    (tmp_path / "broken_cells.py").write_text("raise RuntimeError('another reason')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert import_compiled("compiled_cells").answer == 42
    assert Path(numba.config.CACHE_DIR).name.startswith("subcell-numba-")
    with pytest.raises(RuntimeError, match="another reason"):
        import_compiled("broken_cells")


@pytest.mark.parametrize("error", [OSError("No usable temporary directory found"), ImportError("no umap")])
def test_without_umap_the_report_shows_principal_components_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr(projection, "import_compiled", refuse)
    run(write_fields(tmp_path / "fields", 8), save_tiny_model(tmp_path / "model"), tmp_path / "out", h5ad=False)
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert f"PCA, since UMAP cannot run here ({error})" in page
    assert caplog.text.count("The map of cells shows principal components") == 1
    positions = project_cells(np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32), 0).positions
    assert np.ptp(positions, axis=0).max() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can work as somebody without a home"
)
def test_somebody_without_home_or_passwd_entry_gets_the_map() -> None:
    as_nobody = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--bounding-set=-all",
                 "--inh-caps=-all"]  # fmt: skip
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*as_nobody, sys.executable, "-c", PROJECT], env=environment, capture_output=True, text=True, check=False
    )
    if "Permission denied" in done.stderr or "can't open" in done.stderr:
        pytest.skip("this Python may not be read by others")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("UMAP of the cosine")
