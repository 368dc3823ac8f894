"""A model with the shape of another and random weights: the baseline that says what training added."""

from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.storage.model_folders import (
    build_empty,
    check_model,
    read_config,
    read_processor,
    weights_from_seed,
)
from subcell_hf.weights.model_names import find_folder


def save_untrained(model: str, output: Path, seed: int = 0) -> Path:
    """Write a model that has learnt nothing, with the image processor of the one that it is compared with.

    Args:
        model: Folder, Hub id or name of a published model.
        output: Folder to write; must not exist or be empty.
        seed: Of the random weights.

    Returns:
        The folder.

    Raises:
        InputError: If there is no such model, a file of it is damaged, or `output` holds something.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is not empty. Choose another folder, or remove its content.")
    folder, _ = find_folder(model, weights=False)
    config = check_model(folder) if any(folder.glob("*.safetensors")) else read_config(folder)
    processor = read_processor(folder, config)
    build_empty(config, folder)  # refuses sizes that no memory could hold
    with weights_from_seed(seed):
        network = SubCellModel(config)
    with write_folder_atomically(output) as folder:
        network.save_pretrained(folder)
        processor.save_pretrained(folder)
    return output
