"""Losses against golden numbers, against the naive loops of their docstrings, and by gradcheck."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellPooler
from subcell_hf.model.modeling_subcell_pretraining import projection_head
from subcell_hf.model.objectives_subcell import (
    contrastive_loss,
    patchify,
    protein_centroid_loss,
    reconstruction_loss,
    sigmoid_focal_loss,
    unpatchify,
)


class Golden:
    """Arrays of one golden file as tensors."""

    def __init__(self, path: Path):
        self.arrays = np.load(path)

    def __call__(self, name: str) -> Tensor:
        return torch.tensor(self.arrays[name])


def assert_relative(ours: Tensor, golden: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference relative to the golden tensor's largest value; gradients of different size weigh alike."""
    scale = float(golden.abs().max()) or 1.0
    assert float((ours - golden).abs().max()) / scale <= tolerance


@pytest.fixture
def golden(golden_files: Path, request: pytest.FixtureRequest) -> Golden:
    return Golden(golden_files / "losses" / f"{request.param}.npz")


@pytest.mark.parametrize("golden", ["contrastive"], indirect=True)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("kind", ["nolabel", "label"])
def test_contrast_is_golden(golden: Golden, temperature: float, kind: str) -> None:
    features = golden("in.features").requires_grad_()
    loss = contrastive_loss(features, golden("in.labels") if kind == "label" else None, temperature)
    loss.backward()
    assert_relative(loss.detach(), golden(f"out.{kind}_t{temperature}"))
    assert_relative(features.grad, golden(f"grad.{kind}_t{temperature}"))


@pytest.mark.parametrize("golden", ["contrastive"], indirect=True)
def test_contrast_of_a_single_antibody_is_golden(golden: Golden) -> None:
    loss = contrastive_loss(golden("in.features"), torch.zeros(12, dtype=torch.long))
    assert_relative(loss, golden("out.all_same_label_t0.1"))


def _naive_contrast(features: Tensor, labels: Tensor, temperature: float, across_views: bool = False) -> Tensor:
    cells, views, _ = features.shape
    z = [(features[c, v], int(labels[c])) for c in range(cells) for v in range(views)]
    others = [
        [k for k in range(len(z)) if k != i and not (across_views and k % views == i % views)] for i in range(len(z))
    ]
    anchors = []
    for i, (zi, li) in enumerate(z):
        denominator = sum((zi @ z[k][0] / temperature).exp() for k in others[i])
        log_p = [zi @ z[j][0] / temperature - denominator.log() for j in others[i] if z[j][1] == li]
        anchors.append(-sum(log_p) / len(log_p))
    return sum(anchors) / len(anchors)


def test_contrast_is_its_naive_loop() -> None:
    features = F.normalize(
        torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1
    )
    labels = torch.tensor([4, 1, 4, 9, 1, 4, 2])
    torch.testing.assert_close(contrastive_loss(features, labels, 0.2), _naive_contrast(features, labels, 0.2))
    torch.testing.assert_close(contrastive_loss(features, None, 0.2), _naive_contrast(features, torch.arange(7), 0.2))
    for given, meant in ((labels, labels), (None, torch.arange(7))):
        expected = _naive_contrast(features, meant, 0.2, across_views=True)
        torch.testing.assert_close(contrastive_loss(features, given, 0.2, across_views=True), expected)


@pytest.mark.parametrize("golden", ["contrastive_module"], indirect=True)
@pytest.mark.parametrize("kind", ["nolabel", "label"])
def test_contrast_through_its_projection_is_golden(golden: Golden, kind: str) -> None:
    config = SubCellConfig(projection_hidden_sizes=[24, 24], projection_size=8)
    head = projection_head(config, 16, config.projection_hidden_sizes)
    prefix = "w.projector.mlp."
    head.load_state_dict({key.removeprefix(prefix): golden(key) for key in golden.arrays if key.startswith(prefix)})
    views = golden("in.x_i").requires_grad_(), golden("in.x_j").requires_grad_()
    features = F.normalize(torch.stack([head(view) for view in views], dim=1), dim=-1)
    loss = contrastive_loss(features, golden("in.labels") if kind == "label" else None)
    loss.backward()
    assert_relative(loss.detach(), golden(f"out.loss_{kind}"))
    assert_relative(views[0].grad, golden(f"grad.{kind}.x_i"))
    assert_relative(views[1].grad, golden(f"grad.{kind}.x_j"))
    for name, parameter in head.named_parameters():
        expected = golden(f"grad.{kind}.projector.mlp.{name}")
        # A bias before BatchNorm has no gradient but rounding.
        tolerance = 1e-5 if expected.abs().max() > 1e-5 else torch.inf
        assert_relative(parameter.grad, expected, tolerance)
    for name, buffer in head.named_buffers():
        torch.testing.assert_close(buffer, golden(f"out.{kind}.projector.mlp.{name}"))
    if kind == "label":
        head.eval()
        features = F.normalize(torch.stack([head(view) for view in views], dim=1), dim=-1)
        assert_relative(contrastive_loss(features, golden("in.labels")).detach(), golden("out.loss_eval_label"))


@pytest.mark.parametrize("golden", ["centroid_diffusion_ema"], indirect=True)
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_centroid_loss_is_golden(golden: Golden, weight: float) -> None:
    config = SubCellConfig(centroid_hidden_sizes=[24], projection_size=8)
    head = projection_head(config, 16, config.centroid_hidden_sizes)
    prefix = "w.projector.mlp."
    head.load_state_dict({key.removeprefix(prefix): golden(key) for key in golden.arrays if key.startswith(prefix)})
    student = golden("in.x_i").requires_grad_()
    predictions = F.normalize(head(student), dim=-1)
    directions = F.normalize(golden("in.noise_per_unique_label_sorted"), dim=-1)
    loss = protein_centroid_loss(predictions, golden("in.x_j"), golden("in.labels"), directions, weight)
    loss.backward()
    assert_relative(loss.detach(), golden(f"out.loss_label_labd{weight}"))
    assert_relative(student.grad, golden(f"grad.labd{weight}.x_i"))
    assert_relative(head[3].weight.grad, golden(f"grad.labd{weight}.projector.mlp.3.weight"))


def test_centroid_loss_is_its_naive_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    predictions = F.normalize(torch.randn(9, 6, generator=generator, dtype=torch.float64), dim=-1)
    targets = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    noise = F.normalize(torch.randn(3, 6, generator=generator, dtype=torch.float64), dim=-1)
    labels = torch.tensor([7, 3, 3, 7, 5, 7, 7, 3, 5])
    losses = []
    for index, antibody in enumerate((3, 5, 7)):
        own = predictions[labels == antibody]
        centroid = F.normalize(targets[labels == antibody].mean(0), dim=0)
        losses.append((2 - 2 * own @ centroid).mean() + 0.4 * (own @ noise[index]).mean())
    ours = protein_centroid_loss(predictions, targets, labels, noise, 0.4)
    torch.testing.assert_close(ours, torch.stack(losses).mean())
    with pytest.raises(ValueError, match=r"noise_weight=0.4 needs noise"):
        protein_centroid_loss(predictions, targets, labels, None, 0.4)


@pytest.mark.parametrize("golden", ["focal"], indirect=True)
@pytest.mark.parametrize("alpha", [0.25, -1.0])
@pytest.mark.parametrize("gamma", [2.0, 0.0])
def test_focal_loss_is_golden(golden: Golden, alpha: float, gamma: float) -> None:
    logits = golden("in.logits").requires_grad_()
    for reduction in ("none", "mean", "sum"):
        loss = sigmoid_focal_loss(logits, golden("in.targets"), alpha, gamma, reduction)
        assert_relative(loss.detach(), golden(f"out.{reduction}_a{alpha}_g{gamma}"))
        if reduction == "mean":
            (gradient,) = torch.autograd.grad(loss, logits)
            assert_relative(gradient, golden(f"grad.mean_a{alpha}_g{gamma}"))
    with pytest.raises(ValueError, match="Unknown reduction 'median'"):
        sigmoid_focal_loss(logits, golden("in.targets"), reduction="median")


def test_focal_loss_is_its_naive_formula() -> None:
    logits, targets = torch.tensor([-1.5, 0.2, 3.0]), torch.tensor([1.0, 0.0, 1.0])
    expected = []
    for logit, target in zip(logits, targets, strict=True):
        p = logit.sigmoid() if target else 1 - logit.sigmoid()
        expected.append((0.25 if target else 0.75) * (1 - p) ** 2 * -p.log())
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, reduction="none"), torch.stack(expected))


@pytest.mark.parametrize("golden", ["mae_small"], indirect=True)
def test_patches_are_golden_and_come_back(golden: Golden) -> None:
    images = golden("in.x1")
    patches = patchify(images, 16)
    assert torch.equal(patches, golden("out.patchify_x1"))
    assert torch.equal(unpatchify(patches, 16, 64, 64), images)


@pytest.mark.parametrize("golden", ["mae_small"], indirect=True)
@pytest.mark.parametrize("ratio", ["0.25", "0.5", "0.0"])
@pytest.mark.parametrize("normalize", [0, 1])
def test_reconstruction_loss_is_golden(golden: Golden, ratio: str, normalize: int) -> None:
    run = f"out.r{ratio}"
    loss = reconstruction_loss(
        golden(f"{run}.logits"), golden("in.x1"), golden(f"{run}.mask"), 16, normalize_target=bool(normalize)
    )
    assert_relative(loss, golden(f"{run}.recon_normpix{normalize}_onlyprot0"))


def test_reconstruction_loss_is_its_naive_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, 8, 12, generator=generator, dtype=torch.float64)
    reconstruction = torch.randn(2, 6, 48, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0]])
    errors = []
    for b in range(2):
        for p in range(6):
            if mask[b, p]:
                row, column = 4 * (p // 3), 4 * (p % 3)
                patch = images[b, :, row : row + 4, column : column + 4].permute(1, 2, 0).flatten()
                patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
                errors.append(((reconstruction[b, p] - patch) ** 2).mean())
    torch.testing.assert_close(reconstruction_loss(reconstruction, images, mask, 4), torch.stack(errors).mean())


def test_gradcheck_in_float64() -> None:
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    labels, targets = torch.tensor([0, 0, 1, 2]), torch.randint(0, 2, (4, 3), generator=generator)
    teacher, images = draw(4, 3).detach(), torch.rand(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]])
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(F.normalize(x, dim=-1)), draw(4, 2, 3))
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(F.normalize(x, dim=-1), labels), draw(4, 2, 3))
    assert torch.autograd.gradcheck(
        lambda x: protein_centroid_loss(F.normalize(x, dim=-1), teacher, labels), draw(4, 3)
    )
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, targets), draw(4, 3))
    assert torch.autograd.gradcheck(lambda x: reconstruction_loss(x, images, mask, 2), draw(2, 4, 4))


@pytest.mark.parametrize("golden", ["gated_pooler"], indirect=True)
@pytest.mark.parametrize("kind", ["", "proj.", "plain."])
def test_pooling_is_golden(golden: Golden, kind: str) -> None:
    config = SubCellConfig(
        hidden_size=64, num_attention_heads=4, pooling_hidden_size=32,
        pooling_type="attention" if kind == "plain." else "gated",
        pooling_projection_size=24 if kind == "proj." else None,
    )  # fmt: skip
    pooler = SubCellPooler(config).eval()
    names = {"attention_v.1": "attention.value", "attention_u.1": "attention.gate", "attention": "attention.score",
             "attention.0": "attention.value", "attention.2": "attention.score", "out_proj": "projection"}  # fmt: skip
    own = [key for key in golden.arrays if key.startswith((f"w.{kind}attention", f"w.{kind}out_proj"))]
    renamed = {
        key: f"{names[key.removeprefix(f'w.{kind}').rpartition('.')[0]]}.{key.rpartition('.')[2]}" for key in own
    }
    pooler.load_state_dict({name: golden(key) for key, name in renamed.items()})
    tokens = golden("in.tokens").requires_grad_()
    pooled, weights = pooler(tokens)
    torch.testing.assert_close(pooled, golden(f"out.{kind}pool_op"), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights, golden(f"out.{kind}pool_attn"), atol=1e-5, rtol=0)
    if kind != "plain.":
        (pooled.square().sum() + weights[:, :, 3].sum()).backward()
        assert_relative(tokens.grad, golden(f"grad.{kind}tokens"))
        gradients = dict(pooler.named_parameters())
        for key, name in renamed.items():
            expected = golden(key.replace("w.", "grad.", 1))
            # Softmax does not see the score's bias.
            if name != "attention.score.bias":
                assert_relative(gradients[name].grad, expected)
