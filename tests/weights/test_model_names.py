"""A model is found by folder, Hub id or the name of a published variant; anything else lists what there is."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from subcell_hf.errors import InputError
from subcell_hf.weights import find_folder
from subcell_hf.weights.fetching import MIRROR_VARIABLE
from subcell_hf.weights.published_variants import published_variants
from tests.hub.loopback_hub import Fault, LoopbackHub, serve
from tests.hub.tiny_models import save_tiny
from tests.weights.published_layout import draw_published_files, write_files


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an empty cache."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    return tmp_path / "work"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub that the functions of huggingface_hub ask by default."""
    server, hub = serve()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    yield hub
    server.shutdown()
    server.server_close()


def test_a_variant_is_fetched_unless_a_folder_of_its_name_holds_a_model(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "subcell_hf")
    files = draw_published_files()
    own = {name: files[name] for name in published_variants()["vit-bg"].files}
    monkeypatch.setenv(MIRROR_VARIABLE, str(write_files(own, tmp_path / "copied")))
    (fresh / "vit-bg").mkdir()
    fetched = tmp_path / "cache" / "subcell" / "models" / "vit-bg"
    assert find_folder("vit-bg") == (fetched, None)
    assert "vit-bg contains no model; using the published model" in caplog.text
    assert "11 files, 0.4 MB) from" in caplog.text
    assert "licence is MIT" in caplog.text
    save_tiny("SubCellModel", fresh / "vit-bg")
    caplog.clear()
    assert find_folder("vit-bg") == (Path("vit-bg"), None)
    assert "vit-bg, not the published model" in caplog.text
    with pytest.raises(InputError, match="local folder, which has no revision"):
        find_folder("vit-bg", "v1")
    with pytest.raises(InputError, match="published model, which has no revision"):
        find_folder("mae-bg", "v1")


@pytest.mark.parametrize("name", ["mae-rybq", "MAE_RYBG", "my/models/mae-rybg5", "./mae_rybg", "/mae-rybg"])
def test_an_unknown_name_lists_those_that_there_are(fresh: Path, name: str) -> None:
    near = ", ".join(published_variants())
    with pytest.raises(InputError, match=rf"(?i)neither a folder.*published models are {near}\.") as raised:
        find_folder(name)
    assert "Did you mean mae-rybg? " in str(raised.value)


@pytest.mark.usefixtures("fresh")
def test_models_that_the_hub_does_not_give_are_explained(hub: LoopbackHub) -> None:
    with pytest.raises(InputError, match=r"was not found on the Hub: check the name.*Did you mean vit-bg"):
        find_folder("subcell/vit-bgg")
    for code, status, said in (("GatedRepo", 403, "is gated. Accept its conditions"),
                               ("RevisionNotFound", 404, "has no revision 'v9'")):  # fmt: skip
        hub.faults = [Fault("GET /api/models/lab/model/revision/", status, code=code)]
        with pytest.raises(InputError, match=said) as raised:
            find_folder("lab/model", "v9")
        assert "\n" not in str(raised.value)
