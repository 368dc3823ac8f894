"""A model with the shape of another and random weights: the baseline that says what training added."""

from pathlib import Path

import torch

from subcell_hf.data.folders import write_folder_atomically
from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel


def save_untrained(model: str, output: Path, seed: int = 0) -> Path:
    """Write a model that has learnt nothing, with the image processor of the one that it is compared with.

    Args:
        model: Folder or Hub id of a SubCell model.
        output: Folder to write; must not exist or be empty.
        seed: Of the random weights.

    Returns:
        The folder.

    Raises:
        InputError: If there is no such model, or `output` holds something.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} is not empty. Choose another folder, or remove what is in it.")
    try:
        config = SubCellConfig.from_pretrained(model)
        processor = SubCellImageProcessor.from_pretrained(model)
    except OSError as error:
        raise InputError(
            f"{model!r} is neither the folder of a SubCell model nor its id on the Hub: {error}"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SubCellModel(config)
    with write_folder_atomically(output) as folder:
        network.save_pretrained(folder)
        processor.save_pretrained(folder)
    return output
