"""Models by name: loaded, identified by the checksum of their weights, and put on a device in a precision."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.licences import licence_of_folder
from subcell_hf.inference.models.openvino_encoder import open_encoder
from subcell_hf.inference.models.variants import PUBLISHED_CROP_PX, Variant
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.storage.model_folders import check_model, load_weights, read_processor
from subcell_hf.weights.model_names import find_folder

AUTO = "auto"

_CLASSIFIER = "SubCellForImageClassification"


@dataclass(frozen=True)
class ModelFolder:
    """A model that has been found and whose weights are not loaded yet.

    Attributes:
        name: As the user called it; of several, the folder's own name.
        folder: Where its files lie.
        revision: Commit on the Hub, None for a local folder.
        config: Content of `config.json`.
        variant: What reading and cropping need to know.
        checksum: SHA-256 over the weight files.
        trained: With which window (`crop_px`), `pixel_size_um` and masking (`mask_cells`) it was trained.
        licence: Of the weights; empty where it is not stated.
    """

    name: str
    folder: Path
    revision: str | None
    config: dict[str, Any]
    variant: Variant
    checksum: str
    trained: dict[str, Any] = field(default_factory=dict)
    licence: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classifier's classes in order; empty where there is no classifier."""
        if _CLASSIFIER not in self.config.get("architectures", ()):
            return ()
        names = {int(number): name for number, name in self.config["id2label"].items()}
        return tuple(names[number] for number in sorted(names))

    def facts(self) -> dict[str, Any]:
        """What goes into provenance."""
        novelty = self.config.get("novelty")
        kept = {key: novelty[key] for key in ("antibodies", "fields") if key in novelty} if novelty else None
        return {
            **({} if kept is None else {"novelty": kept}),
            "name": self.name,
            "revision": self.revision,
            "weights_sha256": self.checksum,
            "channels": list(self.variant.channels),
            "proteins": list(self.variant.proteins),
            "crop_px": self.variant.crop_px,
            "pixel_size_um": self.variant.pixel_size_um,
            "patch_px": self.variant.patch_px,
            "processor": self.variant.settings,
        }

    def record(self) -> dict[str, Any]:
        """What is recorded in `run.json`."""
        folder = str(self.folder.absolute())
        return {**self.facts(), "folder": folder, "trained": self.trained, "licence": self.licence}

    def open(self, device: torch.device, precision: str, openvino: str | None = None) -> "CellEncoder":
        """Load the model; see `CellEncoder`."""
        return CellEncoder(self, device, precision, openvino)


def find_models(
    name: str,
    *,
    models: str | None = None,
    revision: str | None = None,
    proteins: Sequence[str] = (),
    crop_px: int | None = None,
    mask_cells: bool | None = None,
) -> tuple[ModelFolder, ...]:
    """Find the models that a run needs, without loading weights.

    Args:
        name: A folder, a Hub id, the name of a published model, or `"auto"` for the largest model whose channels a
            field has.
        models: With `"auto"`: folder whose sub-folders are models, or owner of models on the Hub; `owner/pattern` takes
            those whose name is like the pattern, such as `lab/*-mae`.
        revision: Branch, tag or commit on the Hub.
        proteins: Planes that take the protein's place in turn; empty for the model's own.
        crop_px: Edge of the window in the model's pixels; None: the model's own.
        mask_cells: Whether surroundings are blotted out; None: as the model was made for.

    Returns:
        The models, those with most channels first.

    Raises:
        InputError: If there is none, one is not SubCell's, or they do not fit together.
    """
    if name != AUTO:
        if models is not None:
            raise InputError(f"--models {models} is only used with --model auto; got --model {name}.")
        folders = [(name, *find_folder(name, revision))]
    else:
        folders = _folders_of(models, revision)
    found = [_read_model(own, folder, commit, proteins, crop_px, mask_cells) for own, folder, commit in folders]
    found.sort(key=lambda model: (-len(model.variant.channels), model.name))
    _check_together(found)
    return tuple(found)


def _folders_of(models: str | None, revision: str | None) -> list[tuple[str, Path, str | None]]:
    if models is None:
        raise InputError(
            "--model auto needs --models: a folder whose sub-folders are models, or their owner on the Hub "
            "(owner/pattern for some of them)."
        )
    if Path(models).is_dir():
        local = [path for path in sorted(Path(models).iterdir()) if (path / "config.json").is_file()]
        if not local:
            raise InputError(f"{models} has no sub-folder with a config.json. `subcell convert` makes such folders.")
        return [(path.name, path, None) for path in local]
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    owner, _, pattern = models.partition("/")
    try:
        listed = sorted(model.id for model in HfApi().list_models(author=owner, filter="subcell"))
    except (HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{models} is no folder here, and the Hub could not be asked for an owner's models: "
            f"{str(error).splitlines()[0]}"
        ) from error
    ids = [own for own in listed if fnmatchcase(own.partition("/")[2], pattern or "*")]
    if not ids:
        raise InputError(
            f"{models} is neither a local folder nor an owner on the Hub. Models of {owner} with the tag `subcell`: "
            f"{', '.join(listed[:8]) or 'none'}. Give a folder, an owner, or owner/pattern."
        )
    return [(own, *find_folder(own, revision)) for own in ids]


def _read_model(
    name: str,
    folder: Path,
    revision: str | None,
    proteins: Sequence[str],
    crop_px: int | None,
    mask_cells: bool | None,
) -> ModelFolder:
    checked = check_model(folder)
    config, settings = checked.to_dict(), read_processor(folder, checked).to_dict()
    names = ("channels", "size", "pixel_size_um", "do_resize", "do_center_crop", "do_pad", "do_normalize", "do_mask")
    own = [key for key in ("channel_tokens", "channels_per_pass") if checked.channel_tokens == "separate"]
    settings = {key: settings[key] for key in (*names, "normalize")} | {key: config[key] for key in own}
    window_px, masked = _window(settings), settings["do_mask"]
    if mask_cells is not None:
        settings["do_mask"] = mask_cells
    variant = Variant(
        name=name,
        channels=tuple(settings["channels"]),
        proteins=tuple(proteins),
        crop_px=crop_px or window_px,
        pixel_size_um=float(settings["pixel_size_um"] or config.get("pixel_size_um") or PUBLISHED_PIXEL_SIZE_UM),
        patch_px=1 if config.get("backbone_config") else int(config.get("patch_size", 16)),
        settings=settings,
    )
    trained = {"pixel_size_um": variant.pixel_size_um, "crop_px": window_px, "mask_cells": masked}
    return ModelFolder(name, folder, revision, config, variant, _checksum(folder), trained, licence_of_folder(folder))


def _window(settings: dict[str, Any]) -> int:
    """Edge of the window that the processor makes; the published one where crops keep their size."""
    size = settings["size"]
    if settings["do_center_crop"] and not settings["do_resize"] and size["height"] == size["width"]:
        return int(size["height"])
    return PUBLISHED_CROP_PX


def _checksum(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _check_together(found: Sequence[ModelFolder]) -> None:
    """Refuse models of which nobody could say which is meant, or whose tables could not be joined."""
    for number, model in enumerate(found):
        for other in found[:number]:
            if set(model.variant.channels) == set(other.variant.channels):
                raise InputError(
                    f"{other.name} and {model.name} both take {', '.join(model.variant.channels)}: nobody can say "
                    "which is meant. Give --models with one model for each set of channels, on the Hub with a pattern "
                    "such as owner/*-mae."
                )
            if model.classes != other.classes:
                raise InputError(
                    f"{other.name} has {len(other.classes)} classes and {model.name} others ({len(model.classes)}); "
                    "expected the same for every row of a table."
                )


def choose_device(asked: str, local_rank: int = 0) -> torch.device:
    """The device to work on.

    Args:
        asked: `"auto"`, or as torch names it.
        local_rank: Number of this process on its machine.

    Returns:
        The device; for `"auto"` the GPU with the number of this process if there is one.

    Raises:
        InputError: If torch does not have it.
    """
    if asked == "auto":
        asked = f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {asked!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


class CellEncoder(nn.Module):
    """Images of cells → embedding, probabilities and attention map.

    The transformer runs in the precision chosen; pooling and classifiers, a hundredth of the work, always in fp32, so
    that the mean over tokens is not rounded to eight bits.

    Args:
        model: Where the weights are.
        device: Where to put them.
        precision: `"fp32"` or `"bf16"`; on OpenVINO also `"int8"`.
        openvino: OpenVINO's name of the device that runs the encoder; None for torch.

    Raises:
        InputError: If OpenVINO cannot run the model, or the weights are no longer those that were found, so that a
            table would name other ones.
    """

    def __init__(self, model: ModelFolder, device: torch.device, precision: str, openvino: str | None = None) -> None:
        super().__init__()
        self.encoder: Any
        self.exact = precision == "fp32"
        self.classifier: nn.Module | None = None
        if model.classes:
            whole = load_weights(SubCellForImageClassification, model.folder)
            self.encoder, self.classifier = whole.subcell, whole.classifier
            self.multi_label = whole.config.problem_type == "multi_label_classification"
        else:
            self.encoder = load_weights(SubCellModel, model.folder)
        if _checksum(model.folder) != model.checksum:
            raise InputError(
                f"{model.folder} holds other weights than when this run began. Put the first ones back, or run the "
                "command again with a new output."
            )
        if openvino is not None:
            self.encoder = open_encoder(self.encoder, model.folder, precision, openvino)
        self.eval().to(device)
        if precision == "bf16" and openvino is None:
            run_in_bf16(self.encoder)

    @torch.inference_mode()
    def forward(
        self, pixel_values: Tensor, channels: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embed images.

        Args:
            pixel_values: `[cells, channels, height, width]`.
            channels: Their names, for a model with separate channel tokens; None for the model's.

        Returns:
            Embeddings `[cells, width]`, probabilities `[cells, classes]` or None, attention maps
            `[cells, heads, rows, columns]` or None; float32.
        """
        # cuDNN would round the patches of the first layer to TF32.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=not self.exact):
            outputs = self.encoder(pixel_values, channels=channels, return_dict=True)
        embeddings = outputs.pooler_output.float()
        probabilities = None
        if self.classifier is not None:
            logits = self.classifier(embeddings)  # [cells, members, classes]
            probabilities = (logits.sigmoid() if self.multi_label else logits.softmax(-1)).mean(1)
        attentions = outputs.pooler_attentions
        return embeddings, probabilities, None if attentions is None else attentions.float()


def run_in_bf16(encoder: Any) -> None:
    """Let the transformer of an encoder run in bf16, and its pooling in fp32.

    Args:
        encoder: `SubCellModel`, or the backbone of another family; it is changed.
    """
    encoder.to(torch.bfloat16)
    encoder.pooler.float()
    encoder.pooler.register_forward_pre_hook(_as_float)


def _as_float(_: nn.Module, tokens: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.float() for tensor in tokens)
