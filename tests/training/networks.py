"""What is trained in the tests, and how it is compared."""

from __future__ import annotations

import torch
from torch import nn

from lorax.runner import Runner
from lorax.training import ATTENTION, CONVOLUTION, TEXT

ALL = "|".join([ATTENTION, CONVOLUTION, TEXT])
FEW = (
    r"unet\.input_blocks\.[14]\..*(attn1\.to_q|attn2\.to_k|proj_in|in_layers\.2|emb_layers\.1)"
    r"|te\..*\.0\.mlp\.fc1|unet\.input_blocks\.3\.0\.op"
)


def randomise(network: nn.Module) -> None:
    made = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=made))


def predict(runner: Runner) -> torch.Tensor:
    """What the UNet says with gradients, for a fixed input."""
    made = torch.Generator().manual_seed(6)
    latents = torch.randn(2, 4, 8, 8, generator=made)
    ids = runner.tokenizer(["a cat", "a red car"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    return runner.unet(latents, torch.tensor([100, 700]), runner.text_encoder(ids)[0], return_dict=False)[0]


def dense(layers: dict) -> dict[str, torch.Tensor]:
    return {layer: dW.scale * dW.up.double() @ dW.down.double() for layer, dW in layers.items()}


def assert_same(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    """Layers alike up to a share of their norm."""
    assert found.keys() == expected.keys()
    a, b = dense(found), dense(expected)
    for layer in a:
        assert torch.linalg.norm(a[layer] - b[layer]) <= tolerance * torch.linalg.norm(b[layer]), layer
