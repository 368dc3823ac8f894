"""An untrained twin has the shape of the model, other weights, and the same weights for the same seed."""

from pathlib import Path

import pytest
import torch

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.weights.untrained import save_untrained


def test_an_untrained_twin(tmp_path: Path) -> None:
    config = SubCellConfig.from_size("tiny", image_size=32, num_hidden_layers=1)
    model = SubCellModel(config)
    model.save_pretrained(tmp_path / "model")
    SubCellImageProcessor(size=32, pixel_size_um=0.5).save_pretrained(tmp_path / "model")

    folders = [save_untrained(str(tmp_path / "model"), tmp_path / str(n), seed) for n, seed in enumerate((0, 0, 1))]
    first, again, other = (SubCellModel.from_pretrained(folder).state_dict() for folder in folders)
    name = next(key for key in first if key.endswith("weight") and first[key].ndim == 2)
    assert first.keys() == model.state_dict().keys()
    torch.testing.assert_close(first[name], again[name], rtol=0, atol=0)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], model.state_dict()[name])
    assert SubCellImageProcessor.from_pretrained(folders[0]).pixel_size_um == 0.5


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder, nor an id such as owner/name"):
        save_untrained(str(tmp_path / "nothing"), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="is not empty"):
        save_untrained("subcell/any", tmp_path / "full")
