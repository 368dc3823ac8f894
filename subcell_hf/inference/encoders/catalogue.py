"""What can be given as an encoder, with licence, channels and size: what `subcell encoders` lists."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.finding import BUILT_IN, added_encoders, build_entry_point
from subcell_hf.inference.encoders.specs import EncoderSpec
from subcell_hf.ontology import CHANNEL_VARIANTS
from subcell_hf.weights.published_variants import published_variants

_SUBCELL_SIZE = 1536
_BACKBONES = (
    ("facebook/dinov2-base", "Apache-2.0", 768, ""),
    ("facebook/dinov3-vitb16-pretrain-lvd1689m", "dinov3-license", 768, "the conditions accepted on its page"),
    ("google/vit-base-patch16-224-in21k", "Apache-2.0", 768, ""),
    ("facebook/vit-mae-base", "Apache-2.0", 768, ""),
    ("google/siglip-base-patch16-224", "Apache-2.0", 768, ""),
    ("facebook/convnext-base-224", "Apache-2.0", 1024, ""),
)
"""Vision models that others compare with; any other one of transformers works as well."""

_OF_THE_FIELD = (
    ("recursionpharma/OpenPhenom", "non-commercial", 384, ",trust_remote_code=true"),
    ("CaicedoLab/MorphEm", "as its page says", 384, ",trust_remote_code=true"),
)


@dataclass(frozen=True)
class ListedEncoder:
    """An encoder that can be given to `subcell embed`.

    Attributes:
        name: What to give as `--model`.
        licence: Licence of the weights.
        channels: Names of the channels that it takes, in order; empty: any.
        embedding_size: Numbers per cell, or per channel if it takes any channels one by one; None: unknown before it
            has seen a cell.
        needs: What it needs: downloads, extras, conditions; empty: nothing.
    """

    name: str
    licence: str
    channels: tuple[str, ...]
    embedding_size: int | None
    needs: str = ""

    def as_json(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return {**asdict(self), "channels": list(self.channels)}


def list_encoders() -> tuple[ListedEncoder, ...]:
    """Encoders: the published SubCell models, what is built in, what installed packages add, and models of others.

    Nothing is downloaded. An encoder of another package that cannot be built is listed with the reason.
    """
    return (
        *(
            ListedEncoder(name, "MIT", CHANNEL_VARIANTS[variant.channels], _SUBCELL_SIZE, "a download")
            for name, variant in published_variants().items()
        ),
        *(_describe_built_in(name) for name in BUILT_IN),
        *(_describe_added(name, point) for name, point in added_encoders().items()),
        *_describe_others(),
    )


def _describe_built_in(name: str) -> ListedEncoder:
    try:
        encoder = BUILT_IN[name](EncoderSpec(name))
    except InputError as error:
        return ListedEncoder(name, "", (), None, str(error))
    return ListedEncoder(name, encoder.licence, encoder.channels, encoder.embedding_size, encoder.needs)


def _describe_added(name: str, point: EntryPoint) -> ListedEncoder:
    try:
        encoder = build_entry_point(point, EncoderSpec(name))
    except InputError as error:
        return ListedEncoder(name, "", (), None, str(error))
    return ListedEncoder(name, encoder.licence, encoder.channels, encoder.embedding_size, encoder.needs)


def _describe_others() -> Iterator[ListedEncoder]:
    for name, licence, size, condition in _BACKBONES:
        yield ListedEncoder(name, licence, (), size, f"a download{f' and {condition}' if condition else ''}")
    for name, licence, size, option in _OF_THE_FIELD:
        yield ListedEncoder(name + option, licence, (), size, "a download, and trust in its code, which is run")
