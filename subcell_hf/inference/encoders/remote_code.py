"""Models of the field whose code comes with their weights: they take all channels at once, or one after the other.

Two interfaces are published: OpenPhenom's `predict(images)` of `[cells, channels, height, width]` with intensities from
0 to 255, and MorphEm's `forward_features(image)["x_norm_clstoken"]` of one channel at a time with mean 0 and standard
deviation 1, here after resizing. The published example of MorphEm puts random noise in the place of saturated pixels
first, which is left out, so that the same cells have the same embeddings. Any other model is called with all channels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.encoders.specs import EncoderSpec
from subcell_hf.storage.model_folders import CONFIG_FILE
from subcell_hf.storage.plain_files import explaining, read_json

_TOKEN = "x_norm_clstoken"


class MultiChannelModel(nn.Module):
    """A model that takes any channels through one of the published interfaces.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.interface = next((name for name in ("predict", "forward_features") if hasattr(model, name)), "forward")

    def forward(self, images: Tensor) -> Tensor:
        """Embed cells.

        Args:
            images: `[cells, channels, height, width]`, scaled as `build_remote_code` declares.

        Returns:
            `[cells, width]`; of an interface of single channels `[cells, channels · width]`.
        """
        if self.interface == "predict":
            return torch.as_tensor(self.model.predict(images * 255))
        if self.interface == "forward_features":
            found = self.model.forward_features(images.flatten(0, 1)[:, None])
            tokens = torch.as_tensor(found[_TOKEN] if isinstance(found, dict) else found)
            return tokens.reshape(*images.shape[:2], -1).flatten(1)
        output = self.model(images)
        pooled = getattr(output, "pooler_output", None)
        return torch.as_tensor(output if pooled is None else pooled)


def build_remote_code(spec: EncoderSpec, folder: Path, licence: str) -> Encoder:
    """A model with its own code as an encoder; the code is run, so the folder must be trusted.

    Args:
        spec: What was typed.
        folder: Folder with `config.json`, code and weights.
        licence: Of the weights; empty: unknown.

    Raises:
        InputError: If it cannot be loaded.
    """
    from transformers import AutoModel

    config = read_json(folder / CONFIG_FILE, "Download the model's folder again.")
    with explaining(folder, "Its code may need other libraries, or another version of transformers."):
        model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    if info["missing_keys"]:
        raise InputError(f"{folder} lacks weights of the model, such as {sorted(info['missing_keys'])[0]}.")
    wrapped = MultiChannelModel(model)
    edge = next((config[name] for name in ("image_size", "img_size") if isinstance(config.get(name), int)), None)
    return Encoder(
        name=spec.name or "remote-code",
        encode=wrapped,
        input_px=edge or (256 if wrapped.interface == "predict" else 224),
        scaling="standard" if wrapped.interface == "forward_features" else "channel",
        licence=licence,
        source=str(folder),
        version=wrapped.interface,
    )
