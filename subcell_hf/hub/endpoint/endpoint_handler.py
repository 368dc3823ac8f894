"""Answers requests with embeddings and protein locations; lies as `handler.py` beside the weights on the Hub.

A request is JSON: `{"inputs": …, "parameters": {…}}`. An input is one cell, or a list of cells:

* `{"red": FILE, "yellow": FILE, "blue": FILE, "green": FILE}`: one file per channel of the model, or
* `{"image": FILE, "channels": ["red", …]}`: one file with all planes, in the model's order where no names are given;
* beside either: `"cell_mask": FILE` and `"pixel_size_um": number`.

FILE is the base64 text of an `.npy`, TIFF or grey PNG file: in lines or not, URL-safe or not, also as a `data:` URL.
Parameters: `top_k` (5) and `threshold` (0) of the locations, and the switches `embedding` (true), `probabilities`
(false), `attention` (false). The answer, or each of a list, holds `locations`, `embedding`, `probabilities`,
`attention` as asked for.

Nothing in a request is taken for a path, and no pickle is opened. URLs are refused unless the operator names the hosts
that may be asked. Concurrent requests share forward passes. The operator's environment variables, with their defaults:
`SUBCELL_ENDPOINT_MAX_REQUEST_MB` 64, `…_MAX_DECODED_MB` 256, `…_MAX_EDGE_PX` 2048, `…_MAX_CELLS` 16 (of a request),
`…_MAX_BATCH` 16 (of a forward pass), `…_MAX_WAITING` 512, and `…_URL_HOSTS`, names with commas, none.

It needs torch, numpy, transformers, Pillow and tifffile, and the folder that it lies in, `endpoint_images.py` and
`endpoint_batching.py` included.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from subcell_hf.hub.endpoint.endpoint_batching import Cell, MicroBatcher
from subcell_hf.hub.endpoint.endpoint_images import CELL_MASK, Budget, Limits, Pixels, RequestError, read_file

SWITCHES = {"embedding": True, "probabilities": False, "attention": False}


class EndpointHandler:
    """Loads the folder and answers requests; may be called from many threads.

    Args:
        path: Folder with the weights.
        limits: What a request may cost; None asks the environment.
        trust_remote_code: Whether the folder's own code is run; on an endpoint that is what it was uploaded for.
    """

    def __init__(self, path: str = "", limits: Limits | None = None, trust_remote_code: bool = True):
        self.limits = limits or Limits.from_environment()
        loading: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(path, **loading)
        classifies = "SubCellForImageClassification" in (config.architectures or [])
        auto_class: Any = AutoModelForImageClassification if classifies else AutoModel
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = auto_class.from_pretrained(path, use_safetensors=True, **loading).to(self.device).eval()
        self.processor = AutoImageProcessor.from_pretrained(path, **loading)
        self.channels: list[str] = list(config.channels)
        self.classes: list[str] = [config.id2label[index] for index in sorted(config.id2label)] if classifies else []
        self.multi_label = config.problem_type != "single_label_classification"
        self.batcher = MicroBatcher(self._answer_cells, self.limits.max_batch, self.limits.max_waiting)

    def __call__(self, data: Mapping[str, Any]) -> Any:
        """Answer one request.

        Args:
            data: `{"inputs": …, "parameters": …}`, see the module.

        Returns:
            A dict that JSON can hold, or a list of them where `inputs` is a list.

        Raises:
            RequestError: If the request cannot be answered; the message says why.
        """
        with self.batcher.on_its_way():
            options = self._read_parameters(data)
            inputs = data.get("inputs")
            listed = inputs if isinstance(inputs, list) else [inputs]
            if not 0 < len(listed) <= self.limits.max_cells:
                raise RequestError(f"inputs has {len(listed)} cells; expected 1 to {self.limits.max_cells}.", 413)
            budget = Budget(self.limits)
            cells = [self._read_cell(item, f"inputs[{number}]", budget) for number, item in enumerate(listed)]
            futures = self.batcher.submit(cells)
        answers = [self._shorten(future.result(), options) for future in futures]
        return answers if isinstance(inputs, list) else answers[0]

    # ---- Reading a request ----

    def _read_parameters(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise RequestError('The request must be JSON of the form {"inputs": …, "parameters": {…}}.')
        given = data.get("parameters") or {}
        if not isinstance(given, Mapping):
            raise RequestError(f"parameters is a {type(given).__name__}; expected an object.")
        unknown = sorted(set(given) - {"top_k", "threshold", *SWITCHES})
        if unknown:
            raise RequestError(f"Unknown parameters: {', '.join(unknown)}; handler.py documents the parameters.")
        options = {"top_k": 5, "threshold": 0.0, **SWITCHES, **given}
        if type(options["top_k"]) is not int or options["top_k"] < 1:
            raise RequestError(f"top_k is {options['top_k']!r}; expected a whole number above 0.")
        if type(options["threshold"]) not in (int, float) or not 0 <= options["threshold"] <= 1:
            raise RequestError(f"threshold is {options['threshold']!r}; expected a number from 0 to 1.")
        for name in SWITCHES:
            if type(options[name]) is not bool:
                raise RequestError(f"{name} is {options[name]!r}; expected true or false.")
        return options

    def _read_cell(self, item: Any, where: str, budget: Budget) -> Cell:
        if not isinstance(item, Mapping):
            raise RequestError(
                f"{where} is a {type(item).__name__}; expected an object with a file for each of "
                f"{', '.join(self.channels)}, or with 'image'."
            )
        given = dict(item)
        mask, pixel_size_um = given.pop("cell_mask", None), given.pop("pixel_size_um", None)
        if pixel_size_um is not None and (type(pixel_size_um) not in (int, float) or not 0 < pixel_size_um < 1000):
            raise RequestError(f"{where}.pixel_size_um is {pixel_size_um!r}; expected micrometres above 0.")
        if "image" in given and "image" not in self.channels:
            names = given.pop("channels", None) or self.channels
            planes = self._name_planes(
                read_file(given.pop("image"), f"{where}.image", self.limits, budget), names, where
            )
            if given:
                raise RequestError(f"{where} has {', '.join(map(str, given))} beside 'image'; leave them out.")
        else:
            wrong = sorted(set(self.channels) ^ set(given))
            if wrong:
                raise RequestError(
                    f"{where} has the wrong channels {', '.join(wrong)}; expected {', '.join(self.channels)}."
                )
            planes = {
                name: read_file(given[name], f"{where}.{name}", self.limits, budget, name) for name in self.channels
            }
        inside = None if mask is None else read_file(mask, f"{where}.cell_mask", self.limits, budget, CELL_MASK)
        if inside is not None and np.isin(inside, (0, 255)).all():
            inside = inside > 0  # in image files, 255 means True
        return Cell(planes, inside, None if pixel_size_um is None else float(pixel_size_um))

    def _name_planes(self, stack: Pixels, names: Any, where: str) -> dict[str, Pixels]:
        sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not sound or set(self.channels) - set(names):
            raise RequestError(f"{where}.channels is {names!r}; expected a list with {', '.join(self.channels)}.")
        if stack.ndim == 3 and stack.shape[0] != len(names) and stack.shape[2] == len(names):
            stack = np.moveaxis(stack, 2, 0)
        if stack.ndim == 2 and len(names) == 1:
            stack = stack[None]
        if stack.ndim != 3 or len(stack) != len(names):
            raise RequestError(
                f"{where}.image has the shape {stack.shape}; expected planes of {', '.join(names)}.", 422
            )
        return {name: stack[index] for index, name in enumerate(names) if name in self.channels}

    # ---- Computing ----

    @torch.inference_mode()
    def _answer_cells(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """One forward pass over cells of one kind."""
        masks = None if cells[0].mask is None else [cell.mask for cell in cells]
        images = [dict(cell.planes) for cell in cells]
        try:
            inputs = self.processor(images, cell_masks=masks, pixel_size_um=cells[0].pixel_size_um)
            outputs = self.model(inputs["pixel_values"].to(self.device), return_dict=True)
        except ValueError as error:
            raise RequestError(str(error), 422) from error
        logits, attentions = getattr(outputs, "logits", None), outputs.pooler_attentions
        columns: dict[str, Any] = {"embedding": outputs.pooler_output.float().cpu()}
        if not bool(columns["embedding"].isfinite().all()):
            raise RequestError(
                "The embedding is not finite; the image contains NaN, infinite or very large numbers.", 422
            )
        if logits is not None:
            columns["probabilities"] = (logits.sigmoid() if self.multi_label else logits.softmax(-1)).float().cpu()
        if attentions is not None:
            columns["attention"] = attentions.float().cpu()
        return [{name: column[row] for name, column in columns.items()} for row in range(len(cells))]

    def _shorten(self, found: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """What was asked for, as JSON can hold it."""
        answer: dict[str, Any] = {}
        scores: list[float] | None = found["probabilities"].tolist() if "probabilities" in found else None
        if scores is not None:
            ranked = sorted(zip(scores, self.classes, strict=True), key=lambda pair: -pair[0])
            answer["locations"] = [
                {"label": label, "score": score}
                for score, label in ranked[: options["top_k"]]
                if score >= options["threshold"]
            ]
            if options["probabilities"]:
                answer["probabilities"] = dict(zip(self.classes, scores, strict=True))
        elif options["probabilities"]:
            raise RequestError("This model computes embeddings only; leave out probabilities.")
        for name in ("embedding", "attention"):
            if options[name]:
                if name not in found:
                    raise RequestError(f"This model's pooling has no {name} map; leave it out.")
                answer[name] = found[name].tolist()
        return answer
