"""A Hub on this machine, and tiny models to publish on it."""

from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import disable_progress_bars

from tests.hub.loopback_hub import LoopbackHub, serve


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty Hub."""
    # Its large files travel by LFS; the client would choose Xet, for which there is no server here.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    disable_progress_bars()
    server, hub = serve()
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    """The real client, with the right to write."""
    return HfApi(endpoint=hub.url, token="hf_write")
