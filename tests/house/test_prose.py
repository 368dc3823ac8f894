"""Documentation is plain technical English: wordings that an earlier style used have a standard replacement."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REWRITTEN = (
    "README.md",
    "docs/index.md",
    "docs/load.md",
    "docs/microscopes.md",
    "docs/embed.md",
    "docs/masks.md",
    "docs/report.md",
    "docs/demo.md",
    "docs/publish.md",
    "docs/faq.md",
    "docs/migration.md",
    "docs/images-to-shards.md",
    "docs/pretrain.md",
    "docs/finetune.md",
    "docs/scale.md",
    "docs/objectives.md",
    "docs/evaluate.md",
    "docs/perturbation.md",
    "docs/proteome-map.md",
    "docs/costs.md",
    "docs/api.md",
    "CONTRIBUTING.md",
    "annotations/README.md",
    "model_cards/README.md",
    "model_cards/card.md.jinja",
    "model_cards/dataset_card.md.jinja",
    "model_cards/common.yaml",
    "model_cards/published.yaml",
    "tests/golden/README.md",
    "subcell_hf/evaluation/metrics/coverage_error/README.md",
    "subcell_hf/evaluation/metrics/label_ranking_average_precision/README.md",
    "subcell_hf/evaluation/metrics/macro_average_precision/README.md",
    "subcell_hf/evaluation/metrics/replicate_map/README.md",
)

REPLACEMENTS = {
    r"go(es|ing)? on\b|went on": "resume, continue",
    r"stands?|stood|standing": "is, lies in, is stored in, is listed in",
    r"tells?|told|telling|speaks? of|spoke of": "show, indicate, report, say which; classify, predict",
    r"read off": "predict",
    r"(?<!k-)nearest neighbours?|weighs? nothing": "k-nearest neighbours (k-NN)",
    r"citizens?": "integrates with the Hugging Face ecosystem",
    r"(do|does|did) without": "label-free, without labels",
    r"(seen )?the like of": "out of domain",
    r"byte for byte": "byte-identical",
    r"from the optimizer's hands": "freeze",
    r"knows? no|know neither": "no authentication, no TLS; is not supported",
    r"must be there|not needed": "required, optional, default",
    r"of (one's|your|its|their|our) own": "your own …, custom …",
    r"colors?|colored|gray|neighbors?": "British spelling",
}
WORDS = {
    re.compile(rf"\b(?:{words})\b".replace(" ", r"\s+"), re.IGNORECASE): instead
    for words, instead in REPLACEMENTS.items()
}


def wordings_to_replace(text: str) -> list[tuple[int, str, str]]:
    """Line number, wording and replacement; a wording may run over the end of a line."""
    found = []
    for pattern, instead in WORDS.items():
        found += [(text.count("\n", 0, match.start()) + 1, match[0], instead) for match in pattern.finditer(text)]
    return sorted(found)


@pytest.mark.parametrize("file", REWRITTEN)
def test_standard_words_are_used(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    found = [f"{file}:{line}: {words!r}: use {instead}" for line, words, instead in wordings_to_replace(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("pattern", WORDS, ids=lambda pattern: pattern.pattern)
def test_every_wording_is_found(pattern: re.Pattern[str]) -> None:
    examples = (
        "The run\ngoes on. It stands here, as we are told. It can be read off. Nearest neighbours. A Hub citizen. It "
        "does without labels. The like of it. Byte for byte. Taken from the optimizer's hands. It knows no "
        "users. Not needed. Classes of your own. Gray."
    )
    assert [words for _, words, _ in wordings_to_replace(examples) if pattern.fullmatch(words)]
