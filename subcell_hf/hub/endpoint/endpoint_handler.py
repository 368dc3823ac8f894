"""Answers requests with embeddings and protein locations; lies as `handler.py` beside the weights on the Hub.

A request is JSON: `{"inputs": …, "parameters": {…}}`. An input is one cell, or a list of cells:

* FILE: one file of the whole cell: a channel sheet (a grey picture with the channels side by side, in the model's
  order), an RGB picture if each channel of the model is red, green or blue, or one plane for each channel; it is
  answered as the Hub's tasks are, with `[{"label", "score"}, …]`, or with the embedding if the model has no classifier;
* `{"red": FILE, "yellow": FILE, "blue": FILE, "green": FILE}`: one file per channel of the model;
* `{"image": FILE, "channels": ["red", …]}`: a FILE as the first, with the names of its channels if not the model's;
* beside either of the two: `"cell_mask": FILE` and `"pixel_size_um": number`.

A model with separate channel tokens takes any of its channels, also `protein`, `other`, `other_2`, …, by these names.

FILE is the base64 text of an `.npy`, TIFF, PNG or JPEG file: in lines or not, URL-safe or not, also as a `data:` URL.
Where the server decodes pictures itself, it is an image of Pillow. `subcell serve` also takes the bytes of a FILE as
they are, without JSON. Parameters: `top_k` (5) and `threshold` of the locations, `function_to_apply` to the logits
(`sigmoid`, `softmax` or `none`; default: as trained), `normalize` (false) the embedding to length 1, the switches
`embedding` (true), `probabilities` (false), `attention` (false), and `task`. The answer, or each of a list, holds
`locations`, `embedding`, `probabilities`, `attention` as asked for. The `task` `image-classification` or
`feature-extraction` asks for the labels or the embedding alone; a switch asks a FILE for all.

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
from subcell_hf.hub.endpoint.endpoint_images import (
    Budget,
    Limits,
    Pixels,
    RequestError,
    read_file,
    read_plane,
    read_planes,
)

SWITCHES = {"embedding": True, "probabilities": False, "attention": False}
DEFAULTS = {"top_k": 5, "threshold": None, "function_to_apply": None, "normalize": False, "task": None, **SWITCHES}
FUNCTIONS: dict[str, Any] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(-1),
    "none": lambda logits: logits,
}
CLASSIFY = "image-classification"
TASKS = (CLASSIFY, "feature-extraction", "image-feature-extraction")


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
        self.takes_any_channels = getattr(config, "channel_tokens", "joint") == "separate"
        self.classes: list[str] = [config.id2label[index] for index in sorted(config.id2label)] if classifies else []
        self.multi_label = config.problem_type != "single_label_classification"
        self.batcher = MicroBatcher(self._answer_cells, self.limits.max_batch, self.limits.max_waiting)

    def __call__(self, data: Mapping[str, Any]) -> Any:
        """Answer one request.

        Args:
            data: `{"inputs": …, "parameters": …}`, see the module; a FILE may also be bytes.

        Returns:
            What JSON can hold: a dict, or a list for a FILE; a list of these where `inputs` is a list.

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
        answers = [
            self._answer(future.result(), options, is_file=not isinstance(item, Mapping))
            for item, future in zip(listed, futures, strict=True)
        ]
        return answers if isinstance(inputs, list) else answers[0]

    # ---- Reading a request ----

    def _read_parameters(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise RequestError('The request must be JSON of the form {"inputs": …, "parameters": {…}}.')
        given = data.get("parameters") or {}
        if not isinstance(given, Mapping):
            raise RequestError(f"parameters is a {type(given).__name__}; expected an object.")
        # `InferenceClient.feature_extraction` sends its parameters beside the inputs; `options` are of the Hub itself.
        given = {name: data[name] for name in data if name not in ("inputs", "parameters", "options")} | dict(given)
        unknown = sorted(map(str, set(given) - set(DEFAULTS)))
        if unknown:
            raise RequestError(f"Unknown parameters: {', '.join(unknown)}; handler.py documents the parameters.")
        options = DEFAULTS | given | {"is_detailed": any(given.get(name) for name in SWITCHES)}
        if type(options["top_k"]) is not int or options["top_k"] < 1:
            raise RequestError(f"top_k is {options['top_k']!r}; expected a whole number above 0.")
        threshold = options["threshold"]
        if threshold is not None and (type(threshold) not in (int, float) or not 0 <= threshold <= 1):
            raise RequestError(f"threshold is {threshold!r}; expected a number from 0 to 1.")
        for name in (*SWITCHES, "normalize"):
            if type(options[name]) is not bool:
                raise RequestError(f"{name} is {options[name]!r}; expected true or false.")
        for name, choices in (("function_to_apply", tuple(FUNCTIONS)), ("task", TASKS)):
            if options[name] is not None and options[name] not in choices:
                raise RequestError(f"{name} is {options[name]!r}; expected one of {', '.join(choices)}.")
        if options["task"] == CLASSIFY and not self.classes:
            raise RequestError("This model computes embeddings only; it has no locations to classify.")
        return options

    def _read_cell(self, item: Any, where: str, budget: Budget) -> Cell:
        if item is None or isinstance(item, int | float | list):
            raise RequestError(
                f"{where} is a {type(item).__name__}; expected a file, or an object with a file for each of "
                f"{', '.join(self.channels)}, or with 'image'."
            )
        given = dict(item) if isinstance(item, Mapping) else {}
        mask, pixel_size_um = given.pop("cell_mask", None), given.pop("pixel_size_um", None)
        if pixel_size_um is not None and (type(pixel_size_um) not in (int, float) or not 0 < pixel_size_um < 1000):
            raise RequestError(f"{where}.pixel_size_um is {pixel_size_um!r}; expected micrometres above 0.")
        if not isinstance(item, Mapping):
            planes = self._read_whole(item, None, where, budget)
        elif "image" in given and "image" not in self.channels:
            image, names = given.pop("image"), given.pop("channels", None)
            if given:
                raise RequestError(f"{where} has {', '.join(map(str, given))} beside 'image'; leave them out.")
            sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
            incomplete = sound and not self.takes_any_channels and set(self.channels) - set(names or ())
            if names is not None and (not sound or incomplete):
                raise RequestError(f"{where}.channels is {names!r}; expected a list with {', '.join(self.channels)}.")
            self._check_channels(names, where)
            planes = self._read_whole(image, names, f"{where}.image", budget)
        else:
            wrong = [] if self.takes_any_channels else sorted(set(self.channels) ^ set(given))
            if wrong:
                raise RequestError(
                    f"{where} has the wrong channels {', '.join(wrong)}; expected {', '.join(self.channels)}."
                )
            self._check_channels(list(given), where)
            names = list(given) if self.takes_any_channels else self.channels
            planes = {name: self._read_plane(given[name], name, f"{where}.{name}", budget) for name in names}
        inside = None if mask is None else self._read_plane(mask, None, f"{where}.cell_mask", budget)
        if inside is not None and np.isin(inside, (0, 255)).all():
            inside = inside > 0  # in image files, 255 means True
        return Cell(planes, inside, None if pixel_size_um is None else float(pixel_size_um))

    def _check_channels(self, names: list[str] | None, where: str) -> None:
        """Refuse channels that a model of any channels does not know."""
        if self.takes_any_channels and names is not None:
            try:
                self.processor.choose_channels(names)
            except ValueError as error:
                raise RequestError(f"{where}: {error}") from error

    def _read_whole(self, image: Any, names: list[str] | None, where: str, budget: Budget) -> dict[str, Pixels]:
        decoded = read_file(image, where, self.limits, budget, len(names or self.channels))
        return read_planes(decoded, self.processor, self.channels, names, where)

    def _read_plane(self, file: Any, channel: str | None, where: str, budget: Budget) -> Pixels:
        return read_plane(read_file(file, where, self.limits, budget), self.processor, channel, where)

    # ---- Computing ----

    @torch.inference_mode()
    def _answer_cells(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """One forward pass over cells of one kind."""
        masks = None if cells[0].mask is None else [cell.mask for cell in cells]
        images = [dict(cell.planes) for cell in cells]
        try:
            inputs = self.processor(images, cell_masks=masks, pixel_size_um=cells[0].pixel_size_um)
            named = {"channels": inputs["channels"]} if self.takes_any_channels else {}
            outputs = self.model(inputs["pixel_values"].to(self.device), return_dict=True, **named)
        except ValueError as error:
            raise RequestError(str(error), 422) from error
        logits, attentions = getattr(outputs, "logits", None), outputs.pooler_attentions
        columns: dict[str, Any] = {"embedding": outputs.pooler_output.float().cpu()}
        if not bool(columns["embedding"].isfinite().all()):
            raise RequestError(
                "The embedding is not finite; the image contains NaN, infinite or very large numbers.", 422
            )
        if logits is not None:
            columns["logits"] = logits.float().cpu()
        if attentions is not None:
            columns["attention"] = attentions.float().cpu()
            if self.takes_any_channels:
                maps = dict(zip(inputs["channels"], outputs.channel_attentions.float().cpu().unbind(2), strict=True))
                columns["channel_attention"] = [
                    {name: own[row].tolist() for name, own in maps.items()} for row in range(len(cells))
                ]
        return [{name: column[row] for name, column in columns.items()} for row in range(len(cells))]

    def _answer(self, found: Mapping[str, Any], options: Mapping[str, Any], *, is_file: bool) -> Any:
        """What was asked for, as JSON can hold it."""
        embedding = found["embedding"]
        if options["normalize"]:
            embedding = torch.nn.functional.normalize(embedding, dim=0)
        task = options["task"]
        if task is None and is_file and not options["is_detailed"]:
            task = CLASSIFY if self.classes else TASKS[1]
        if task not in (None, CLASSIFY):
            return embedding.tolist()
        scores = self._scores(found, options)
        ranked = sorted(zip(scores, self.classes, strict=True), key=lambda pair: -pair[0])[: options["top_k"]]
        least = options["threshold"]
        locations = [{"label": label, "score": score} for score, label in ranked if least is None or score >= least]
        if task == CLASSIFY:
            return locations
        answer: dict[str, Any] = {"locations": locations} if self.classes else {}
        if options["probabilities"]:
            if not self.classes:
                raise RequestError("This model computes embeddings only; leave out probabilities.")
            answer["probabilities"] = dict(zip(self.classes, scores, strict=True))
        if options["embedding"]:
            answer["embedding"] = embedding.tolist()
        if options["attention"]:
            if "attention" not in found:
                raise RequestError("This model's pooling has no attention map; leave it out.")
            answer["attention"] = found["attention"].tolist()
            if "channel_attention" in found:
                answer["channel_attention"] = found["channel_attention"]
        return answer

    def _scores(self, found: Mapping[str, Any], options: Mapping[str, Any]) -> list[float]:
        if not self.classes:
            return []
        function = options["function_to_apply"] or ("sigmoid" if self.multi_label else "softmax")
        scores: list[float] = FUNCTIONS[function](found["logits"]).tolist()
        return scores
