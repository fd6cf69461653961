"""The constrained layer of LoRA-X (arXiv 2501.16559, equation 3): y = W x + U~ dS V~^T x, in which dS alone is trained."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lorax.errors import LoraxError
from lorax.formats import small
from lorax.low_rank import LowRank

DIAGONAL, FULL = "diagonal", "full"
CORES = (DIAGONAL, FULL)


class Constrained(nn.Module):
    """The update of one linear layer or convolution, which a forward hook adds to the layer's output.

    ``U`` (m, r) and ``Vh`` (r, n) are the leading singular vectors of the layer's weight (m, n); n is in * kh * kw for a
    convolution. They are frozen, in the weight's dtype and on its device, and in no state dict. ``core`` is dS: float32 (r,) or
    (r, r), zero at first, so that training starts from the base's output. ``dropout`` drops entries of V~^T x during training.
    ``probes`` are those of the given basis, in float64 (``lorax/formats/small.py``).
    """

    U: torch.Tensor
    Vh: torch.Tensor

    def __init__(
        self, module: nn.Linear | nn.Conv2d, U: torch.Tensor, V: torch.Tensor, core: str = DIAGONAL, dropout: float = 0.0
    ) -> None:
        super().__init__()
        r, weight = U.shape[1], module.weight
        self.multiplier, self.dropout = 1.0, dropout
        self.core = nn.Parameter(torch.zeros(r if core == DIAGONAL else (r, r), device=weight.device))
        self.probes = small.probes_of(U, V)
        self.register_buffer("U", U.to(weight), persistent=False)
        self.register_buffer("Vh", V.mT.to(weight).contiguous(), persistent=False)
        self._kernel: tuple[int, ...] = ()  # (in, kh, kw) of a convolution
        self._geometry: dict[str, Any] = {}
        if isinstance(module, nn.Conv2d):
            if module.groups != 1 or module.padding_mode != "zeros":
                raise LoraxError(f"{module}: expected a convolution without groups that pads with zeros.")
            self._kernel = (module.in_channels, *module.kernel_size)
            self._geometry = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        self._hook = module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self(inputs[0]).to(output.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return U~ dS V~^T x times the multiplier, for x (..., n) of a linear layer or (N, in, h, w) of a convolution."""
        U, Vh = self.U.to(x.dtype), self.Vh.to(x.dtype)
        h = F.conv2d(x, Vh.view(-1, *self._kernel), **self._geometry) if self._kernel else F.linear(x, Vh)
        h = F.dropout(h, self.dropout, self.training)
        dS = (self.multiplier * self.core).to(h.dtype)
        if self._kernel:
            h = h * dS[:, None, None] if dS.dim() == 1 else F.conv2d(h, dS[:, :, None, None])
            return F.conv2d(h, U[:, :, None, None])
        return F.linear(h * dS if dS.dim() == 1 else F.linear(h, dS), U)

    def cast(self, dtype: torch.dtype) -> None:
        """Cast the basis to the dtype of the layer's weight, unless that is for storage only (float8)."""
        if dtype.itemsize > 1:
            self.U, self.Vh = self.U.to(dtype), self.Vh.to(dtype)

    def remove(self) -> None:
        """Remove the hook, so that the layer is as it was."""
        self._hook.remove()

    def delta(self) -> LowRank:
        """Return dW on the CPU, with dS in the first factor."""
        U, Vh, dS = (tensor.detach().float().cpu() for tensor in (self.U, self.Vh, self.core))
        return LowRank(U * dS if dS.dim() == 1 else U @ dS, Vh)

    def core_of(self, dW: LowRank) -> tuple[torch.Tensor, float]:
        """Return the core nearest to ``dW``, float64 (r,) or (r, r), and the share of ||dW||_F that it leaves out.

        That share is measured as a difference, since a basis in half precision is not quite orthonormal.
        """
        U, Vh = self.U.cpu().double(), self.Vh.cpu().double()  # Apple's cards have no float64
        up, down = dW.scale * dW.up.double(), dW.down.double()
        dS = (U.mT @ up) @ (down @ Vh.mT)
        core = dS.diag() if self.core.dim() == 1 else dS
        rest = LowRank(torch.cat([up, -U * core if core.dim() == 1 else -U @ core], 1), torch.cat([down, Vh]))
        return core, rest.norm() / norm if (norm := dW.norm()) else 0.0
