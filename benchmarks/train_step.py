"""A training step of the multi-task recipe: ours against a plain fp32 step with the same weights, and how it scales.

    python benchmarks/train_step.py [--shapes base:224:8 base:448:2 small:224:16] [--rounds 3] [--cpu-time] [--quick]

The recipe is mae_cell_protein_contrast: two views, a quarter of the first one's patches hidden and reconstructed, two
projection heads and their contrastive losses, the online probe; forward, backward, clipping and AdamW. The reference
takes the same step with the same weights in plain fp32 PyTorch, as the published code does: attention that holds its
probabilities, losses that build whole matrices, AdamW parameter by parameter. Both have the same numbers: losses are
compared before anything is timed. Rounds alternate; figures are medians. Views and reading are not part of it
(benchmarks/augment.py, benchmarks/data.py); benchmarks/gpu measures whole runs.

The second table is the cost of heads and losses for one process of 1 to 64 that train together: the real code under
torch's process group that only pretends, with the gathered features of so many processes. The reference is heads and
losses over the whole global batch in every process. Prints one JSON line; ratio is bf16's worst of all shapes.
"""

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from subcell_hf.model.configuration_subcell import SIZES, SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellLayer
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.model.objectives_subcell import contrastive_loss
from subcell_hf.training.monitoring.cost import estimate_step_cost
from subcell_hf.training.monitoring.throughput import measured_peak
from subcell_hf.training.pretraining.optimization import parameter_groups

CELLS_PER_ANTIBODY = 4


class PlainStep:
    """The published way of working, written plainly over the modules of our model."""

    def __init__(self, model: SubCellForPreTraining) -> None:
        self.model, self.config = model, model.config

    def __call__(self, views: Tensor, noise: Tensor, antibodies: Tensor, locations: Tensor) -> dict[str, Tensor]:
        """Losses by name; arguments as the model's forward."""
        model, config = self.model, self.config
        order = noise[:, 0].argsort(dim=1, stable=True)
        restore, kept = order.argsort(1), order[:, : int(noise.shape[2] * (1 - config.mask_ratio))]
        hidden = torch.ones_like(noise[:, 0])
        hidden.scatter_(1, kept, 0.0)
        first, second = self.encode(views[:, 0], kept), self.encode(views[:, 1], None)
        pooled = [self.pool(tokens) for tokens in (first, second)]
        losses = {"reconstruction": self.reconstruct(first, views[:, 0], restore, hidden)}
        heads = {"cell_contrast": model.cell_projection, "protein_contrast": model.protein_projection}
        labels = {"cell_contrast": torch.arange(len(views)), "protein_contrast": antibodies}
        for name, head in heads.items():
            features = torch.cat([F.normalize(head(view), dim=1) for view in pooled])
            losses[name] = self.contrast(features, labels[name].repeat(2), config.cell_contrast_temperature)
        logits = torch.stack([model.probe(view.detach()) for view in pooled], 1)
        losses["probe"] = self.focal(logits, locations[:, None].expand_as(logits))
        return losses

    def encode(self, images: Tensor, kept: Tensor | None) -> Tensor:
        """Tokens of the encoder."""
        encoder = self.model.subcell
        positions = encoder.embeddings.position_embeddings
        patches = encoder.embeddings.patch_embeddings(images) + positions[:, 1:]
        if kept is not None:
            patches = torch.gather(patches, 1, kept[:, :, None].repeat(1, 1, patches.shape[-1]))
        cls_token = (encoder.embeddings.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        tokens = torch.cat([cls_token, patches], 1)
        for layer in encoder.layers:
            tokens = self.attend(layer, tokens)
        return encoder.layernorm(tokens)

    def attend(self, layer: SubCellLayer, tokens: Tensor) -> Tensor:
        """One layer, with the probabilities of its attention in memory."""
        attention, normed = layer.attention, layer.layernorm_before(tokens)
        query, key, value = (
            part(normed).unflatten(-1, (-1, attention.head_size)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        probabilities = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1)
        tokens = tokens + attention.o_proj((probabilities @ value).transpose(1, 2).flatten(2))
        return tokens + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.layernorm_after(tokens))))

    def pool(self, tokens: Tensor) -> Tensor:
        """Gated attention pooling."""
        pooler = self.model.subcell.pooler.attention
        scored = torch.tanh(pooler.value(tokens)) * F.gelu(pooler.gate(tokens))
        return (pooler.score(scored).transpose(1, 2).softmax(-1) @ tokens).flatten(1)

    def reconstruct(self, tokens: Tensor, images: Tensor, restore: Tensor, hidden: Tensor) -> Tensor:
        """Loss of the decoder."""
        decoder, size = self.model.decoder, self.config.patch_size
        embedded = decoder.embed(tokens)
        masks = decoder.mask_token.repeat(len(embedded), restore.shape[1] + 1 - embedded.shape[1], 1)
        patches = torch.cat([embedded[:, 1:], masks], 1)
        patches = torch.gather(patches, 1, restore[:, :, None].repeat(1, 1, patches.shape[-1]))
        states = torch.cat([embedded[:, :1], patches], 1) + decoder.position_embeddings
        for layer in decoder.layers:
            states = self.attend(layer, states)
        predicted = decoder.prediction(decoder.layernorm(states))[:, 1:]
        rows, columns = (edge // size for edge in images.shape[2:])
        target = images.reshape(len(images), -1, rows, size, columns, size)
        target = torch.einsum("nchpwq->nhwpqc", target).reshape(len(images), rows * columns, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        return (((predicted - target) ** 2).mean(-1) * hidden).sum() / hidden.sum()

    def contrast(self, features: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """Contrastive loss over whole matrices of all features."""
        similarity = features @ features.T / temperature
        others = 1 - torch.eye(len(features))
        positive = (labels[:, None] == labels).float() * others
        log_probability = similarity - torch.log((torch.exp(similarity) * others).sum(1, keepdim=True))
        return -((positive * log_probability).sum(1) / positive.sum(1)).mean()

    def focal(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Focal loss of the probe."""
        probability = torch.sigmoid(logits)
        missed = 1 - (probability * targets + (1 - probability) * (1 - targets))
        alpha = self.config.focal_alpha * targets + (1 - self.config.focal_alpha) * (1 - targets)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (alpha * losses * missed**self.config.focal_gamma).mean()


class Steps:
    """One model and one optimizer, with which every side takes its steps."""

    def __init__(self, size: str, image_size: int, cells: int, heads: list[int]) -> None:
        torch.manual_seed(0)
        # Without dropout both sides have the same numbers; it costs next to nothing.
        self.config = SubCellConfig(
            **SIZES[size],
            image_size=image_size,
            projection_hidden_sizes=heads,
            pooling_dropout=0.0,
            probe_dropout=0.0,
            num_labels=35,
        )
        self.model = SubCellForPreTraining(self.config).train()
        self.plain = PlainStep(self.model)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.05, 0.01), lr=1e-5, betas=(0.9, 0.95))
        rows, columns = self.config.patch_grid
        self.batch = {
            "pixel_values": torch.rand(cells, 2, self.config.num_channels, image_size, image_size),
            "noise": torch.rand(cells, 2, rows * columns),
            "antibodies": torch.arange(cells) // CELLS_PER_ANTIBODY,
            "locations": (torch.rand(cells, 35) < 0.1).float(),
        }

    def losses(self, side: str) -> dict[str, Tensor]:
        """Forward pass of a side: reference, fp32 or bf16."""
        if side == "reference":
            return self.plain(*self.batch.values())
        with torch.autocast("cpu", torch.bfloat16, enabled=side == "bf16"):
            return self.model(**self.batch).losses

    def take(self, side: str) -> dict[str, float]:
        """Seconds of forward pass, backward pass and update."""
        for group in self.optimizer.param_groups:
            group["fused"] = side != "reference"
        marks = [time.perf_counter()]
        losses = self.losses(side)
        loss = sum(getattr(self.config, f"{name}_weight") * value for name, value in losses.items())
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        marks.append(time.perf_counter())
        return {name: end - start for name, start, end in zip(PARTS, marks, marks[1:], strict=False)}


PARTS = ("forward", "backward", "update")
SIDES = ("reference", "fp32", "bf16")


def measure_shape(
    size: str, image_size: int, cells: int, heads: list[int], rounds: int, peak_edge: int
) -> dict[str, object]:
    """Times of all sides at one shape, round by round, so that all meet the same machine."""
    steps = Steps(size, image_size, cells, heads)
    with torch.no_grad():
        expected, found = steps.losses("reference"), steps.losses("fp32")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    times: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(rounds + 1):  # the first warms up
        for side in SIDES:
            taken = steps.take(side)
            if turn:
                times[side].append(taken)
    parts = {side: {part: statistics.median(t[part] for t in times[side]) for part in PARTS} for side in SIDES}
    seconds = {side: statistics.median(sum(t.values()) for t in times[side]) for side in SIDES}
    flops = cells * estimate_step_cost(steps.config, steps.model, views=2).training_flops_per_cell
    peaks = {"reference": measured_peak("no", peak_edge), "bf16": measured_peak("bf16", peak_edge)}
    peaks["fp32"] = peaks["reference"]
    return {
        "shape": f"{size}, {image_size} px, {cells} cells",
        "seconds": {side: {"step": round(seconds[side], 3), **_rounded(parts[side])} for side in SIDES},
        "ratio": {side: round(seconds["reference"] / seconds[side], 2) for side in SIDES[1:]},
        "share_of_matmul_peak": {side: round(flops / seconds[side] / peaks[side], 3) for side in SIDES},
    }


def measure_scaling(size: str, cells: int, widths: list[int], most: int, rounds: int) -> list[dict[str, float]]:
    """Seconds of heads and losses, forward and backward, for one process of 1, 2, 4, … that train together."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    config = SubCellConfig(**SIZES[size], projection_hidden_sizes=widths)
    heads = [head(config, config.embedding_size, config.projection_hidden_sizes) for head in (_head, _head)]
    embeddings, antibodies = torch.randn(cells, 2, config.embedding_size), torch.arange(cells) // CELLS_PER_ANTIBODY
    table, worlds = [], [2**power for power in range(most.bit_length())]
    for world in worlds:
        if world > 1:
            dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
        row = {"processes": world, "global_cells": world * cells}
        row["heads_s"] = _median(lambda: _heads(heads, embeddings)[0].sum().backward(), rounds)
        features = [part.detach().requires_grad_() for part in _heads(heads, embeddings)]
        row["losses_s"] = _median(lambda features=features: _losses(features, antibodies).backward(), rounds)
        if world > 1:
            dist.destroy_process_group()
        if world <= REFERENCE_PROCESSES:
            everything, labels = embeddings.repeat(world, 1, 1), antibodies.repeat(world)
            row["heads_of_all_s"] = _median(lambda e=everything: _heads(heads, e)[0].sum().backward(), rounds)
        everything = [part.detach().repeat(world, 1, 1).requires_grad_() for part in features]
        labels = antibodies.repeat(world)
        row["losses_of_all_s"] = _median(lambda e=everything, x=labels: _losses(e, x).backward(), rounds)
        table.append({name: value if isinstance(value, int) else round(value, 5) for name, value in row.items()})
    return table


REFERENCE_PROCESSES = 8
"""Heads over the whole batch take too long on a CPU for more processes than these; they grow in proportion."""


def _head(config: SubCellConfig, width: int, hidden: list[int]) -> nn.Sequential:
    from subcell_hf.model.modeling_subcell_pretraining import projection_head

    return projection_head(config, width, hidden).train()


def _heads(heads: list[nn.Sequential], embeddings: Tensor) -> list[Tensor]:
    return [F.normalize(torch.stack([head(view) for view in embeddings.unbind(1)], 1), dim=-1) for head in heads]


def _losses(features: list[Tensor], antibodies: Tensor) -> Tensor:
    return contrastive_loss(features[0]) + contrastive_loss(features[1], antibodies)


def _median(run: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    if arguments.cpu_time:
        # Wherever the time is asked for, the peak of the machine included.
        time.perf_counter = time.process_time
        torch.set_num_threads(1)
    shapes = [
        measure_shape(*shape, arguments.heads, arguments.rounds, arguments.peak_edge) for shape in arguments.shapes
    ]
    scaling = measure_scaling(
        arguments.scaling_size, arguments.scaling_cells, arguments.heads, arguments.processes, arguments.rounds
    )
    result = {
        "name": "train_step",
        "ratio": min(shape["ratio"]["bf16"] for shape in shapes),
        "reference": "the same step with the same weights in plain fp32 PyTorch: eager attention, AdamW by parameter",
        "figures": {
            "shapes": shapes,
            "fp32_ratio": min(shape["ratio"]["fp32"] for shape in shapes),
            "scaling": scaling,
            "cells_per_process": arguments.scaling_cells,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "rounds": arguments.rounds,
        },
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(result))


def read_shape(text: str) -> tuple[str, int, int]:
    """`size:pixels:cells`."""
    size, pixels, cells = text.split(":")
    return size, int(pixels), int(cells)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = [("base", 224, 8), ("base", 448, 2), ("small", 224, 16)]
    parser.add_argument("--shapes", type=read_shape, nargs="+", default=defaults, help="size:pixels:cells, several")
    parser.add_argument("--heads", type=int, nargs="+", default=[8192, 8192], help="hidden widths of both heads")
    parser.add_argument(
        "--scaling-size", default="base", choices=sorted(SIZES), help="size of the second table's model"
    )
    parser.add_argument("--scaling-cells", type=int, default=16, help="cells of each process in the second table")
    parser.add_argument("--processes", type=int, default=64, help="most processes in the second table")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds")
    parser.add_argument("--peak-edge", type=int, default=3072, help="rows of the matrices that tell the machine's peak")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of one thread, for a busy machine")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few processes, to see that all runs")
    options = parser.parse_args()
    if options.quick:
        options.shapes, options.heads, options.rounds = [("tiny", 32, 4)], [64, 64], 1
        # A processor without instructions for bf16 takes a minute to multiply large matrices of it.
        options.scaling_size, options.processes, options.peak_edge = "tiny", 4, 256
    main(options)
