"""What a file is: a base or an adapter, of which family, with which layers and ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import LoraxError, NotAnAdapter, UnsupportedFamily
from lorax.formats import AdapterFile, open_adapter


def inspect(path: Path) -> dict[str, Any]:
    """Facts about a checkpoint or an adapter, read from its header alone. Raises LoraxError when it is neither, or damaged."""
    try:
        return _base(open_checkpoint(path))
    except UnsupportedFamily as base:
        return {"kind": "base", "family": base.title, "status": "not supported yet"}
    except LoraxError as not_a_base:
        try:
            return _adapter(open_adapter(path))
        except NotAnAdapter as error:  # other errors speak for themselves: they know what the file is, or that it cannot be read
            raise LoraxError(f"{error}\nNor is it a base: {not_a_base}") from error


def _base(base: Checkpoint) -> dict[str, Any]:
    components = {c.name: sum(layer.startswith(f"{c.name}.") for layer in base.layers) for c in base.family.components}
    layout = "standard" if base.unet_names.is_standard() else "pruned or otherwise changed"
    return {"kind": "base", "family": base.family.title, "blocks": layout, "layers": components}


def _adapter(adapter: AdapterFile) -> dict[str, Any]:
    return {
        "kind": "LoRA-X" if adapter.header else "LoRA",
        "family": adapter.family.title if adapter.family else "not told by its layers",
        "layers": len(adapter.parts),
        "ranks": {str(rank): count for rank, count in sorted(adapter.ranks.items())},
        "metadata": adapter.metadata,
    }
