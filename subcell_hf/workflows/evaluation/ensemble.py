"""SubCell's own location classifier as a predictor for the evaluation, which does not import torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from subcell_hf.training.localization.localization import (
    LabelledEmbeddings,
    LocalizationSettings,
    TrainedEnsemble,
    train_ensemble,
)

_CELLS_AT_ONCE = 8192


@dataclass(frozen=True)
class EnsemblePredictor:
    """The published recipe: an MLP for each seed; see `subcell_hf.evaluation.localization.probes.Predictor`.

    Attributes:
        seeds: One per member.
        device: Where to work.
        name: Name of the classifier in reports.
    """

    seeds: tuple[int, ...]
    device: str = "cpu"
    name: str = "mlp"

    def fit_predict(
        self,
        train_embeddings: npt.NDArray[np.float32],
        train_targets: npt.NDArray[np.uint8],
        validation_embeddings: npt.NDArray[np.float32],
        validation_targets: npt.NDArray[np.uint8],
        test_embeddings: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """Train on one split, stop by the second, predict the third: `[seeds, cells, classes]`."""
        train = LabelledEmbeddings(train_embeddings, train_targets.astype(np.float32))
        validation = LabelledEmbeddings(validation_embeddings, validation_targets.astype(np.float32))
        settings = LocalizationSettings(seeds=self.seeds)
        trained = train_ensemble(train, validation, settings, device=self.device)
        parts = [
            _probabilities(trained, torch.from_numpy(test_embeddings[start : start + _CELLS_AT_ONCE]).to(self.device))
            for start in range(0, len(test_embeddings), _CELLS_AT_ONCE)
        ]
        return np.concatenate(parts, axis=1)


@torch.no_grad()
def _probabilities(trained: TrainedEnsemble, embeddings: torch.Tensor) -> npt.NDArray[np.float32]:
    features = embeddings.expand(len(trained.seeds), -1, -1)
    for number, (weight, bias) in enumerate(trained.layers):
        features = torch.baddbmm(bias[:, None], features.relu() if number else features, weight.transpose(1, 2))
    probabilities: npt.NDArray[np.float32] = features.sigmoid().cpu().numpy()
    return probabilities
