"""What `subcell doctor` finds on a machine, sound or not."""

import json
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.inference.models.layer_times import LayerShape, cache_file
from subcell_hf.parallel.cores import usable_cores
from subcell_hf.workflows.machine import doctor
from subcell_hf.workflows.machine.doctor import ATTENTION, GOOD, IMPOSSIBLE, Finding, check_machine, describe_checkup


@pytest.fixture(autouse=True)
def small_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LayerShape", lambda: LayerShape(32, 2, 64, 50, 2))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def found(name: str) -> Finding:
    return next(finding for finding in check_machine(device="cpu").findings if finding.name == name)


def test_text_and_json_show_the_same() -> None:
    checkup = check_machine()
    assert checkup.possible
    text = describe_checkup(checkup)
    assert max(map(len, text.splitlines())) <= 80
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code == 0
    content = json.loads(shown.stdout)
    assert [check["name"] for check in content["checks"]] == [finding.name for finding in checkup.findings]
    assert all(check["name"] in text for check in content["checks"])
    assert content["figures"]["cells_per_s"] > 0
    assert content["figures"]["precision"] in content["figures"]["layer_ms"]
    assert cache_file().is_file()
    assert CliRunner().invoke(app, ["doctor"]).stdout.count("\n") >= len(checkup.findings)


def test_a_library_that_is_too_old_makes_work_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "2.1" if name == "torch" else installed(name))
    libraries = found("libraries")
    assert libraries.state == IMPOSSIBLE
    assert libraries.remedy == "pip install 'torch>=2.6'"
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 2


def test_more_threads_than_cores_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    processor = found("processor")
    assert processor.state == ATTENTION
    assert f"OMP_NUM_THREADS={usable_cores()}" in processor.remedy


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0, 0))
    assert "Other programs use the cores" in found("load").remedy
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0, 0))
    assert found("load").state == GOOD


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file" / "home"))
    assert "HF_HOME" in found("cache").remedy


def test_the_network_is_tried_unless_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "HF_HUB_OFFLINE" in found("network").text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert found("network").text == f"{address} can be reached"
    assert found("network").state == ATTENTION
