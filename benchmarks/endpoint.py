"""Requests per second of the inference endpoint: shared forward passes against one by one.

Both servers run the same handler over HTTP on this machine and are asked the same by as many clients at once; one of
them may put only one cell into a forward pass. Prints one JSON line. `python benchmarks/endpoint.py --help`.
"""

import argparse
import base64
import http.client
import io
import json
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.hub.endpoint.endpoint_images import Limits
from subcell_hf.hub.endpoint.endpoint_server import EndpointServer
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification


def save_model(folder: Path, image_size: int) -> None:
    """A tiny classifier of one size of image."""
    torch.manual_seed(0)
    config = SubCellConfig.from_size("tiny", image_size=image_size)
    SubCellForImageClassification(config).save_pretrained(folder)
    SubCellImageProcessor(config.channels, image_size, config.pixel_size_um).save_pretrained(folder)


def make_request(image_size: int) -> bytes:
    """One cell as a request's body."""
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).integers(0, 255, (4, image_size, image_size), dtype=np.uint8))
    return json.dumps({"inputs": {"image": base64.b64encode(file.getvalue()).decode()}}).encode()


def ask(port: int, body: bytes, count: int) -> None:
    """Send requests one after the other over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for _ in range(count):
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(content.decode())
    connection.close()


def measure(port: int, body: bytes, clients: int, requests: int) -> float:
    """Requests per second of all clients together."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda _: ask(port, body, requests), range(clients)))
    return clients * requests / (time.perf_counter() - started)


def main() -> None:
    """Alternate between the two servers and compare medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_size", type=int, default=64, help="edge of a crop in pixels")
    parser.add_argument("--clients", type=int, default=32, help="that ask at once")
    parser.add_argument("--requests", type=int, default=10, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=5, help="of each server")
    options = parser.parse_args()
    body, rates = make_request(options.image_size), {"together": [], "one_by_one": []}
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), options.image_size)
        servers = {}
        for name, max_batch in (("together", 16), ("one_by_one", 1)):
            handler = EndpointHandler(folder, Limits(max_batch=max_batch), trust_remote_code=False)
            servers[name] = EndpointServer(handler)
            threading.Thread(target=servers[name].serve_forever, daemon=True).start()
            measure(servers[name].server_port, body, options.clients, 2)  # warm-up
        for _ in range(options.rounds):
            for name, server in servers.items():
                rates[name].append(measure(server.server_port, body, options.clients, options.requests))
        for server in servers.values():
            server.shutdown()
    medians = {name: statistics.median(found) for name, found in rates.items()}
    figures = {
        "together_requests_per_s": round(medians["together"], 2),
        "one_by_one_requests_per_s": round(medians["one_by_one"], 2),
        "clients": options.clients,
        "image_size_px": options.image_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    line = {
        "name": "endpoint",
        "ratio": round(medians["together"] / medians["one_by_one"], 2),
        "reference": "the same endpoint with one cell in every forward pass",
        "figures": figures,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
