"""Writes plain LoRAs, which every UI loads."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.files import Staging, TensorWriter, is_finite
from lorax.formats import AdapterFile
from lorax.low_rank import LowRank
from lorax.options import Saving
from lorax.output import metadata, sidecars
from lorax.output.cards import About
from lorax.output.metadata import moved_note
from lorax.transfer import Moved, Plan, Stream

TOGETHER = 8 << 20  # bytes of small layers that go through the threads as one: to hand each over takes longer than to encode it
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def stage(plan: Plan, moved: Moved, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    """Stage the adapter, its preview and its card at ``path``, which must be free; return the files, the adapter first."""
    target, dtype = plan.target, DTYPES[saving.dtype]
    whole = {layer for layer in moved.layers if f"{layer}.bias" in moved.vectors}
    outlines = {layer: outline.times(saving.strength) for layer, outline in moved.layers.outlines.items()}
    zeros = {layer: outlines[other].zero() for layer, other in missing_in_attentions(target, outlines).items()}
    vectors = {parameter: saving.strength * vector for parameter, vector in moved.vectors.items()}
    others = encode_vectors(target, whole, vectors, dtype) | (plan.adapter.bundled() if plan.within_family else {})

    def encoded(layer: str, delta: LowRank) -> dict[str, torch.Tensor]:
        return (encode_whole if layer in whole else encode)(target, layer, delta, dtype)

    def read(layer: str) -> LowRank:
        return zeros[layer] if layer in zeros else moved.layers[layer].times(saving.strength)

    content, note = (
        Content(plan.adapter, target, zeros | outlines, read, encoded, others, whole),
        moved_note(plan, saving.strength),
    )
    described = metadata.describe(plan, content.factored, moved.report, path.stem, saving, note)
    staging.write(path, lambda temporary: content.write(temporary, described), saving.overwrite)
    about = About.of(plan, target, note, path, staging.size(path))
    return [path, *sidecars.carry(plan.adapter.path, path, staging, about)]


@dataclass
class Content:
    """What is written of the adapter, of which a few layers at a time are in memory.

    ``outlines`` are the layers without their values. ``read`` reads one, and ``encoded`` makes tensors of it. ``others`` are the
    tensors that belong to no layer, and ``whole`` the layers whose tensors are not factors.
    """

    adapter: AdapterFile
    base: Checkpoint
    outlines: dict[str, LowRank]
    read: Callable[[str], LowRank]
    encoded: Callable[[str, LowRank], dict[str, torch.Tensor]]
    others: Mapping[str, torch.Tensor]
    whole: Collection[str] = ()

    @property
    def factored(self) -> dict[str, LowRank]:
        """The outlines of the layers that are written as factors."""
        return {layer: outline for layer, outline in self.outlines.items() if layer not in self.whole}

    def write(self, path: Path, described: Mapping[str, str]) -> None:
        """Write the file. Its rank and alpha are those of the layers as written. Raises LoraxError if a value is not finite."""
        tensors = dict(self.others)
        for layer, outline in self.outlines.items():
            tensors |= self.encoded(layer, outline)
        portions = self._portions()
        stream = Stream(torch.device("cpu"), self._bytes, lambda layers, device: [*map(self.read, layers)], self._work)
        with TensorWriter(path, tensors, {**described, **metadata.UNHASHED}) as file, ThreadPoolExecutor(1) as pool:
            sha256 = pool.submit(lambda: self.adapter.sha256)  # takes as long as all else
            file.put_all(self._checked(self.others))
            for layers, made in zip(portions, stream(portions), strict=True):
                for layer, (scale, encoded) in zip(layers, made, strict=True):
                    self.outlines[layer] = replace(self.outlines[layer], scale=scale)
                    file.put_all(encoded)
            header = metadata.hashed(described, sha256.result()) | metadata.network(self.base, self.factored)
            file.finish(header | metadata.kohya_hashes(file, header))

    def _portions(self) -> list[list[str]]:
        """Return the layers, small ones together."""
        portions, size = list[list[str]](), 0
        for layer in self.outlines:
            size += self._bytes([layer])
            if not portions or size > TOGETHER:
                portions.append([])
                size = self._bytes([layer])
            portions[-1].append(layer)
        return portions

    def _bytes(self, layers: Iterable[str]) -> int:
        """Return about how many bytes layers take on their way, of which there are several copies."""
        outlines = [self.outlines[layer] for layer in layers]
        return sum(4 * (outline.up.nbytes + outline.down.nbytes) for outline in outlines)

    def _work(self, layers: Sequence[str], deltas: Sequence[LowRank]) -> list[tuple[float, dict[str, torch.Tensor]]]:
        """Return the scale of each layer as it is written, and its tensors."""
        balanced = [delta.balanced() for delta in deltas]
        return [(one.scale, self._checked(self.encoded(layer, one))) for layer, one in zip(layers, balanced, strict=True)]

    def _checked(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if odd := next((key for key, value in tensors.items() if not is_finite(value)), None):
            raise LoraxError(f"{self.adapter.path}: {odd} would be infinite in what is written. The adapter's training diverged.")
        return dict(tensors)


def missing_in_attentions(base: Checkpoint, layers: Iterable[str]) -> dict[str, str]:
    """Return what is missing of attentions in OpenCLIP encoders, each with a layer that is there of the same attention.

    AUTOMATIC1111 changes such an attention only if the file has q, k, v and out, and silently drops incomplete ones. So the
    others are written with deltas of 0.
    """
    found: dict[str, str] = {}
    encoders = tuple(f"{component.name}." for component in base.family.components if component.open_clip)
    for layer in layers:
        head, attention, _ = layer.partition(".self_attn.")
        if attention and layer.startswith(encoders):
            found = {head + attention + part: layer for part in ("q_proj", "k_proj", "v_proj", "out_proj")} | found
    return {missing: layer for missing, layer in found.items() if missing not in layers}


def save(tensors: Mapping[str, torch.Tensor], path: Path, described: Mapping[str, str]) -> None:
    """Write tensors that are in memory, with kohya's hashes in the header."""
    with TensorWriter(path, tensors, {**described, **metadata.UNHASHED}) as file:
        file.put_all(tensors)
        file.finish({**described, **metadata.kohya_hashes(file, described)})


def encode(target: Checkpoint, layer: str, delta: LowRank, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a layer's tensors under kohya's keys."""
    return {f"{target.names.kohya(layer)}.{part}": tensor for part, tensor in factors(target, layer, delta, dtype).items()}


def factors(base: Checkpoint, layer: str, delta: LowRank, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return kohya's three parts of a layer. A convolution's factors are (k, in, kh, kw) and (out, k, 1, 1)."""
    shape = base.layers[layer]
    up, down = delta.up, delta.down
    if len(shape) == 4:
        up, down = up[:, :, None, None], down.reshape(delta.rank, *shape[1:])
    return {
        "lora_up.weight": up.to(dtype).contiguous(),
        "lora_down.weight": down.to(dtype).contiguous(),
        "alpha": torch.tensor(delta.scale * delta.rank, dtype=torch.float32),
    }


def encode_whole(target: Checkpoint, layer: str, delta: LowRank, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the layer's whole difference, the only form in which A1111 also reads a bias."""
    dW = (delta.scale * delta.up @ delta.down).reshape(target.layers[layer])
    return {f"{target.names.kohya(layer)}.diff": dW.to(dtype).contiguous()}


def encode_vectors(
    target: Checkpoint, whole: Collection[str], vectors: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return tensors for the biases of the ``whole`` layers, and for norms, of which A1111 expects both weight and bias."""
    tensors = {}
    for parameter, vector in vectors.items():
        layer, _, kind = parameter.rpartition(".")
        name = target.names.kohya(layer)
        if layer in whole:
            tensors[f"{name}.diff_b"] = vector.to(dtype)
            continue
        zero = torch.zeros_like(vector, dtype=dtype)
        tensors = {f"{name}.w_norm": zero, f"{name}.b_norm": zero} | tensors
        tensors[f"{name}.{'w' if kind == 'weight' else 'b'}_norm"] = vector.to(dtype)
    return tensors
