"""Documentation and code use plain technical English: wordings of an earlier style have a standard replacement."""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REWRITTEN = (
    "README.md",
    "docs/index.md",
    "docs/load.md",
    "docs/microscopes.md",
    "docs/embed.md",
    "docs/encoders.md",
    "docs/masks.md",
    "docs/report.md",
    "docs/partners.md",
    "docs/annotate.md",
    "docs/napari.md",
    "docs/search.md",
    "docs/calibrate.md",
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
    "docs/screen.md",
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
    r"stands?(?!-)|stood|standing": "is, lies in, is stored in, is listed in",
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
    r"colors?|colored|gray|(?<!\.)neighbors?": "British spelling",
}
WORDS = {
    re.compile(rf"\b(?:{words})\b".replace(" ", r"\s+"), re.IGNORECASE): instead
    for words, instead in REPLACEMENTS.items()
}

ROOMS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "subcell_hf").iterdir()
    if path.suffix == ".py" or (path / "__init__.py").is_file()
)
TEMPLATES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "subcell_hf").rglob("*.j2"))
STYLE_SHEET = re.compile(r"\{[^{}]*:[^{}]*;[^{}]*\}")


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


def texts_of(code: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, message and help text: all string literals of three words or more."""
    for node in ast.walk(ast.parse(code)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        if isinstance(node, ast.Constant | ast.JoinedStr) and text.count(" ") > 1 and not STYLE_SHEET.search(text):
            yield node.lineno, text


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_messages_and_help_use_standard_words(room: str) -> None:
    path, found = ROOT / room, dict[str, None]()
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        for start, text in texts_of(file.read_text(encoding="utf-8")):
            for line, words, instead in wordings_to_replace(text):
                found[f"{file.relative_to(ROOT)}:{start + line - 1}: {words!r}: use {instead}"] = None
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", TEMPLATES)
def test_pages_use_standard_words(file: str) -> None:
    text = re.sub(r"<(style|script)\b.*?</\1>", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.DOTALL)
    found = [f"{words!r}: use {instead}" for _, words, instead in wordings_to_replace(text)]
    assert not found, "\n".join(found)


def test_texts_of_code_are_found() -> None:
    code = '''
    def read(path, field):
        """Read one field."""
        warnings.warn(f"{path} goes on: " f"see {field}.", stacklevel=2)
        raise InputError("Nothing was read.")
    size: Annotated[int, typer.Option(help="Size of a crop.")] = 3
    style = "a b { color: red; }"
    key = "locations"
    '''
    texts = {text for _, text in texts_of(textwrap.dedent(code))}
    assert texts == {"Read one field.", "… goes on: see ….", " goes on: see ", "Nothing was read.", "Size of a crop."}
