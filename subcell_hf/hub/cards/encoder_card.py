"""The card of an encoder that `subcell embed` has run: what it is, how cells were given to it, and its scores."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from subcell_hf.errors import InputError
from subcell_hf.shipped import shipped_folder
from subcell_hf.tables.right_use import uses_of
from subcell_hf.tables.run_record import orientations_of

_TEMPLATE = "encoder_card.md.jinja"
_HUB_LICENCES = ("mit", "apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0")


def make_encoder_card(run: Mapping[str, Any], size: int, results: Mapping[str, Any] | None = None) -> str:
    """The card of the encoder of a run, in Markdown with the metadata that the Hub reads.

    Args:
        run: Content of `run.json`.
        size: Numbers per cell.
        results: A block with the key `model-index`, see `evaluation.comparison`; None: no scores.

    Raises:
        InputError: If the run records no model.
    """
    models = run.get("models") or ()
    if not models:
        raise InputError("run.json records no model, of which a card could be made. Embed the images again.")
    model = models[0]
    spec = model.get("encoder") or run.get("input", {}).get("model") or model["name"]
    licence = str(model.get("licence") or "")
    known = licence.lower() in _HUB_LICENCES
    metadata: dict[str, Any] = {"license": licence.lower() if known else "other"}
    if licence and not known:
        metadata["license_name"] = licence
    metadata |= {
        "pipeline_tag": "image-feature-extraction",
        "tags": ["biology", "microscopy", "fluorescence", "single-cell"],
        **(results or {}),
    }
    scored = [entry for block in (results or {}).get("model-index", ()) for entry in block["results"]]
    template = (shipped_folder("model_cards") / _TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        card_data=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip(),
        model=model,
        trained=model.get("trained") or {"pixel_size_um": None},
        spec=spec,
        command=shlex.quote(f"{model['name']}={spec}"),
        licence=licence,
        size=size,
        orientations=orientations_of(run),
        deviations=[sentence for use in uses_of(run) for sentence in use.deviations()],
        results=[{**entry, "dataset": {"split": None, **entry["dataset"]}} for entry in scored],
    )
