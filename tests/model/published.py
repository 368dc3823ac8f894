"""SubCell's forward pass written out once more, plainly, from published weights: the oracle for other geometries."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

StateDict = dict[str, Tensor]


def draw_published_weights(
    generator: torch.Generator, *, channels: int, width: int, layers: int, heads_of_pool: int, patch: int,
    grid: tuple[int, int], inner: int = 24, labels: int = 31, members: int = 2,
) -> tuple[StateDict, list[StateDict]]:  # fmt: skip
    """Non-trivial weights under the published names: encoder with pooler, and classifiers."""

    def draw(*shape: int, scale: float = 0.2) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def linear(name: str, outputs: int, inputs: int) -> StateDict:
        return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs)}

    def norm(name: str) -> StateDict:
        return {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}

    encoder = {
        "encoder.embeddings.cls_token": draw(1, 1, width),
        "encoder.embeddings.position_embeddings": draw(1, 1 + grid[0] * grid[1], width),
        "encoder.embeddings.patch_embeddings.projection.weight": draw(width, channels, patch, patch),
        "encoder.embeddings.patch_embeddings.projection.bias": draw(width),
        **norm("encoder.layernorm"),
    }
    for index in range(layers):
        layer = f"encoder.encoder.layer.{index}"
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            encoder |= linear(f"{layer}.{name}", width, width)
        encoder |= linear(f"{layer}.attention.output.dense", width, width)
        encoder |= linear(f"{layer}.intermediate.dense", 2 * width, width)
        encoder |= linear(f"{layer}.output.dense", width, 2 * width)
        encoder |= norm(f"{layer}.layernorm_before") | norm(f"{layer}.layernorm_after")
    encoder |= linear("pool_model.attention_v.1", inner, width) | linear("pool_model.attention_u.1", inner, width)
    encoder |= linear("pool_model.attention", heads_of_pool, inner)
    classifiers = [
        linear("0", 20, width * heads_of_pool) | linear("3", 12, 20) | linear("6", labels, 12) for _ in range(members)
    ]
    return encoder, classifiers


def published_forward(
    encoder: StateDict, classifiers: list[StateDict], images: Tensor, heads: int, grid: tuple[int, int]
) -> dict[str, Tensor]:
    """One image at a time, one head at a time."""
    results = [_embed_one(encoder, image, heads, grid) for image in images]
    embeddings = torch.stack([embedding for embedding, _, _ in results])
    probabilities = []
    for member in classifiers:
        hidden = F.relu(F.linear(embeddings, member["0.weight"], member["0.bias"]))
        hidden = F.relu(F.linear(hidden, member["3.weight"], member["3.bias"]))
        probabilities.append(F.linear(hidden, member["6.weight"], member["6.bias"]).sigmoid())
    return {
        "pool_op": embeddings,
        "pool_attn": torch.stack([attention for _, attention, _ in results]),
        "last_hidden_state": torch.stack([tokens for _, _, tokens in results]),
        "probabilities": torch.stack(probabilities).mean(0),
    }


def _embed_one(w: StateDict, image: Tensor, heads: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    kernel = w["encoder.embeddings.patch_embeddings.projection.weight"]
    patch, width = kernel.shape[-1], kernel.shape[0]
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    patches = [
        (kernel * image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]).sum((1, 2, 3))
        for r in range(rows)
        for c in range(columns)
    ]
    positions = w["encoder.embeddings.position_embeddings"][0]
    plane = positions[1:].T.reshape(1, width, *grid)
    if (rows, columns) != grid:
        plane = F.interpolate(plane, size=(rows, columns), mode="bicubic", align_corners=False)
    tokens = (
        torch.stack(patches) + w["encoder.embeddings.patch_embeddings.projection.bias"] + plane.reshape(width, -1).T
    )
    x = torch.cat([w["encoder.embeddings.cls_token"][0] + positions[:1], tokens])  # [tokens, width]

    def apply(name: str, values: Tensor) -> Tensor:
        return F.linear(values, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, values: Tensor) -> Tensor:
        return F.layer_norm(values, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    layers = sum(key.endswith("layernorm_before.bias") for key in w)
    for index in range(layers):
        layer = f"encoder.encoder.layer.{index}"
        normed = norm(f"{layer}.layernorm_before", x)
        query, key, value = (apply(f"{layer}.attention.attention.{n}", normed) for n in ("query", "key", "value"))
        size = width // heads
        attended = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            attended.append(scores.softmax(-1) @ value[:, part])
        x = x + apply(f"{layer}.attention.output.dense", torch.cat(attended, dim=-1))
        hidden = F.gelu(apply(f"{layer}.intermediate.dense", norm(f"{layer}.layernorm_after", x)))
        x = x + apply(f"{layer}.output.dense", hidden)
    x = norm("encoder.layernorm", x)
    gated = torch.tanh(apply("pool_model.attention_v.1", x)) * F.gelu(apply("pool_model.attention_u.1", x))
    weights = apply("pool_model.attention", gated).softmax(0)  # [tokens, pooling heads]
    return (weights.T @ x).flatten(), weights[1:].T.reshape(-1, rows, columns), x
