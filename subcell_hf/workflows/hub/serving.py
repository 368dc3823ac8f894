"""A model served from this machine: as an inference endpoint, or as a page in the browser."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.hub.endpoint.endpoint_server import EndpointServer
from subcell_hf.inference.models.loading import choose_device, find_models, run_in_bf16
from subcell_hf.inference.models.openvino_encoder import AUTO_BACKEND, choose_openvino, run_on_openvino
from subcell_hf.inference.models.precision import AUTO_PRECISION, choose_int8, choose_precision
from subcell_hf.progress import hide_weight_bars
from subcell_hf.storage.model_folders import check_model, read_processor
from subcell_hf.weights.model_names import find_folder

_logger = logging.getLogger(__name__)


def open_endpoint(
    model: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    engine_backend: str = "auto",
    precision: str = "fp32",
) -> EndpointServer:
    """Load a model and open a port that answers requests like an inference endpoint, for local tests.

    Example:
        ```python
        from subcell_hf.workflows.hub.serving import open_endpoint

        with open_endpoint("model", port=0) as server:
            print(server.server_port)
            server.serve_forever()
        ```

    Args:
        model: Folder or Hub id of a model, or name of a published one, which is fetched.
        host: Address to listen on.
        port: Port; 0 for a free one.
        engine_backend: `"torch"`, `"openvino"`, in int8 if `subcell optimize` wrote the folder, or `"auto"`: int8 if it
            is there and faster, otherwise torch.
        precision: Of torch: `"fp32"`, `"bf16"`, or `"auto"` for the one that is measured to be faster.

    Returns:
        The server, not yet serving.

    Raises:
        InputError: If the folder holds no model or is damaged, or the backend or the precision is unknown.
        OSError: If the port cannot be opened.
    """
    hide_weight_bars()
    folder, _ = find_folder(model)
    read_processor(folder, check_model(folder))
    handler = EndpointHandler(str(folder), trust_remote_code=False)
    if _uses_openvino(folder, engine_backend, precision):
        handler.model, handler.device = run_on_openvino(handler.model.cpu().float(), folder), torch.device("cpu")
    else:
        _set_precision(handler.model, folder, precision)
    return EndpointServer(handler, host, port)


def serve_demo(
    model: str | Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    reference: str | Path | None = None,
    browser: bool = False,
    engine_backend: str = "auto",
    precision: str = "fp32",
) -> None:
    """Serve a demo page until it is stopped: upload a cell, see its locations, attention and position on a map.

    Args:
        model: Folder or Hub id of a model, or name of a published one, which is fetched.
        host: Address to listen on; `0.0.0.0` allows other machines to connect.
        port: Port; 0 for a free one.
        reference: Embedding table of this model with known locations, drawn as a map behind the cell.
        browser: Open the page in a browser.
        engine_backend: `"torch"`, `"openvino"`, in int8 if `subcell optimize` wrote the folder, or `"auto"`: int8 if it
            is there and faster, otherwise torch.
        precision: Of torch: `"fp32"`, `"bf16"`, or `"auto"` for the one that is measured to be faster.

    Raises:
        InputError: If the model or the table cannot be used, or the backend or the precision is unknown.
    """
    hide_weight_bars()
    found, _ = find_folder(model)
    reference = None if reference is None else Path(reference)
    openvino = _uses_openvino(found, engine_backend, precision)
    from subcell_hf.hub.demo.demo_answers import Demo  # gradio is an extra
    from subcell_hf.hub.demo.demo_app import launch
    from subcell_hf.hub.demo.space import local_settings

    with tempfile.TemporaryDirectory(prefix="subcell-demo-") as folder:
        settings = local_settings(found, Path(folder) / "examples", reference)
        demo = Demo(settings)
        if openvino:
            demo.model.model = run_on_openvino(demo.model.model.float(), found)
        else:
            _set_precision(demo.model.model, found, precision)
        launch(demo, server_name=host, server_port=port or None, inbrowser=browser)


def _set_precision(model: Any, folder: Path, precision: str) -> None:
    """Let a loaded model run in the precision that is asked for, or measured to be the faster one."""
    chosen = choose_precision(precision, find_models(str(folder)), model.device)
    if precision == AUTO_PRECISION:
        _logger.info("Precision %s: %s.", chosen.name, chosen.reason)
    if chosen.name == "bf16":
        run_in_bf16(getattr(model, "subcell", model))


def _uses_openvino(folder: Path, engine_backend: str, precision: str) -> bool:
    if engine_backend != AUTO_BACKEND:
        return choose_openvino(engine_backend, "auto") is not None
    if precision == "bf16":  # asked for by name, thus of torch
        return False
    (model,) = find_models(str(folder))
    chosen = choose_int8(model, choose_device("auto"))
    if chosen is not None:
        _logger.info("Precision int8 on OpenVINO: %s. --engine-backend torch takes the float model.", chosen.reason)
    return chosen is not None
