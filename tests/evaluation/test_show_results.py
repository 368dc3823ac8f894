"""The table at the end of the quickstart says what the evaluation's results say."""

from typing import Any

from recipes.show_results import compare


def results() -> dict[str, Any]:
    def score(model: str, head: str, level: str, metric: str, value: float) -> dict[str, Any]:
        return {"model": model, "head": head, "level": level, "metric": metric, "value": value}

    return {
        "macro_map": {"untrained": 0.2, "subcell": 0.7},
        "scores": [
            score("subcell", "linear", "cell", "macro_map", 0.7),
            score("subcell", "neighbours", "cell", "macro_map", 0.6),
            score("subcell", "neighbours", "cell", "macro_auc", 0.9),
            score("subcell", "neighbours", "antibody", "macro_map", 0.8),
            score("untrained", "neighbours", "cell", "macro_map", 0.1),
        ],
        "cell_lines": [
            {"model": "untrained", "balanced_accuracy": 0.31, "chance": 0.25},
            {"model": "subcell", "balanced_accuracy": 0.41, "chance": 0.25},
        ],
        "batches": [
            {"model": "subcell", "column": "microscope", "balanced_accuracy": 0.99, "chance": 0.5},
            {"model": "subcell", "column": "plate", "balanced_accuracy": 0.12, "chance": 0.1},
            {"model": "untrained", "column": "plate", "balanced_accuracy": 0.13, "chance": 0.1},
        ],
    }


def test_every_score_stands_in_its_column_and_the_best_comes_first() -> None:
    header, first, second, *explained = compare(results()).splitlines()
    assert header.split() == ["linear", "probe", "neighbours", "cell", "line", "plate"]
    assert first.split() == ["subcell", "0.700", "0.600", "0.410", "0.120"]
    assert second.split() == ["untrained", "0.200", "0.100", "0.310", "0.130"]
    assert "by chance 0.25" in explained[2]
    assert "by chance 0.10" in explained[3]
