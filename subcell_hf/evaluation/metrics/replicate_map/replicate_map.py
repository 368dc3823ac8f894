"""Replicate retrieval: mean average precision with which members of a group find each other by cosine similarity."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import average_precision_score

_DESCRIPTION = """
Every profile ranks all others by cosine similarity; its average precision measures how high the other members of its
group are ranked. A group's value is the mean over its members, the metric the mean over groups. Profiles without a
partner are not queries but are still ranked among the others. With `blocks`, such as plates, pairs within one block are
not compared.
"""

_INPUTS = """
Args:
    predictions (list of lists of float): a profile (embedding) for every row.
    references (list of str): the group of every row, such as its compound.
    blocks (list of str, optional): rows of equal blocks, such as the plate, are not compared.
Returns:
    replicate_map (float): mean over groups; NaN where no group has two members that can be compared.
    groups (dict): group -> mean average precision of its members.
Examples:
    >>> metric = evaluate.load("replicate_map")
    >>> metric.compute(predictions=[[1, 0], [1, 0.1], [0, 1]], references=["a", "a", "b"])
    {'replicate_map': 1.0, 'groups': {'a': 1.0}}
"""

_CITATION = """
@article{kalinin2024versatile, title={A versatile information retrieval framework for evaluating profile strength and
similarity}, author={Kalinin, Alexandr A. and others}, journal={bioRxiv}, year={2024}, doi={10.1101/2024.04.01.587631}}
"""


class ReplicateMap(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """See the module's docstring."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("string"),
                }
            ),
            reference_urls=["https://github.com/cytomining/copairs"],
        )

    def _compute(self, predictions: Any, references: Any, blocks: Any = None) -> dict[str, Any]:
        profiles, groups = np.asarray(predictions, np.float64), np.asarray(references)
        if profiles.ndim != 2 or len(profiles) != len(groups):
            raise ValueError(f"predictions {profiles.shape} must be [rows, width] for {len(groups)} references.")
        if blocks is not None and len(blocks) != len(groups):
            raise ValueError(f"{len(blocks)} blocks for {len(groups)} rows: expected one for each.")
        directions = profiles / np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-12)
        by_group: dict[str, list[float]] = {}
        for row, group in enumerate(groups):
            compared = np.arange(len(groups)) != row
            if blocks is not None:
                compared &= np.asarray(blocks) != blocks[row]
            partners = groups[compared] == group
            if partners.any():
                similarity = directions[compared] @ directions[row]
                by_group.setdefault(str(group), []).append(float(average_precision_score(partners, similarity)))
        means = {group: float(np.mean(values)) for group, values in sorted(by_group.items())}
        return {"replicate_map": float(np.mean(list(means.values()))) if means else float("nan"), "groups": means}
