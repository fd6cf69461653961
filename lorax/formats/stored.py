"""Finds the layers of an adapter file, and its changes of norms and biases, from keys and shapes alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from lorax.errors import LoraxError, NotAnAdapter
from lorax.files import TensorFile
from lorax.formats import dora, full, keys, lora, oft, refusals
from lorax.formats.parts import Format, Shapes


@dataclass(frozen=True)
class StoredLayer:
    """One layer: its format, and the keys and shapes of its parts. Layers of one form share their ``shapes``."""

    format: Format
    keys: Mapping[str, str]
    shapes: Shapes

    @property
    def title(self) -> str:
        """The format's name for users."""
        title = "BOFT" if self.format is oft and oft.is_butterfly(self.shapes) else self.format.TITLE
        return f"{title} with DoRA" if self.has_magnitudes else title

    @property
    def rank(self) -> int | None:
        """The rank as users state it; None if the format has none."""
        return self.format.rank(self.shapes)

    @property
    def has_magnitudes(self) -> bool:
        """Whether DoRA's magnitudes are stored beside the format's parts."""
        return dora.SCALE in self.keys or dora.MAGNITUDE in self.keys

    @property
    def is_whole(self) -> bool:
        """Whether the whole difference of the weights is stored."""
        return self.format is full

    @property
    def is_low_rank(self) -> bool:
        """Whether the stored factors bound the rank of the delta."""
        return self.format.LOW_RANK and not self.has_magnitudes

    @property
    def is_on_base(self) -> bool:
        """Whether the delta depends on the weight that the adapter was trained on."""
        return self.format.ON_BASE or self.has_magnitudes

    @property
    def like_weight(self) -> tuple[int, ...] | None:
        """The shape of a part that has as many dimensions as the weight; None if there is no such part."""
        return next((self.shapes[part] for part in (lora.DOWN, full.DIFF) if part in self.shapes), None)


@dataclass(frozen=True)
class StoredVector:
    """A tensor that is added to a norm or a bias. ``parameter``: ``weight`` or ``bias``; ``size``: how many values it has."""

    key: str
    layer: str
    parameter: str
    size: int


def contents(file: TensorFile) -> tuple[dict[str, StoredLayer], list[StoredVector]]:
    """Return the layers by their names in the file, and the vectors, ordered by layer.

    Raises NotAnAdapter if a key is not an adapter's or there is no layer, and LoraxError if the kind of file is not supported or
    the parts of a layer do not go together.
    """
    parts: dict[str, dict[str, str]] = {}
    vectors: dict[str, dict[str, StoredVector]] = {}
    for key, shape in file.shapes.items():
        if key.startswith(keys.EMBEDDING):
            continue
        if found := keys.owned(key, file):
            layer, part = found
            if (twin := parts.setdefault(layer, {}).setdefault(part, key)) != key:
                raise LoraxError(f"{file.path}: {twin} and {key} are the same part of a layer. Remove one of them.")
        elif vector := keys.vector(key):
            layer, parameter = vector
            if len(shape) != 1:
                raise LoraxError(f"{file.path}: {key} has shape {shape}; expected one dimension.")
            vectors.setdefault(layer, {})[parameter] = StoredVector(key, layer, parameter, shape[0])
        else:
            raise refusals.of_key(file.path, key, file.shapes)
    refusals.check_base(file.path, parts)
    if not parts:
        raise NotAnAdapter(f"{file.path}: holds no layers, only embeddings, norms or biases; expected a LoRA.")
    layers, forms = {}, dict[tuple, tuple[Format, Shapes]]()
    for name, of_layer in parts.items():
        given = tuple([(part, file.shapes[key]) for part, key in of_layer.items()])
        if (form := forms.get(given)) is None:  # of hundreds of layers, a few dozen differ in this
            shapes = dict(given)
            form = forms[given] = keys.format_of(f"{file.path}: {name}", shapes), shapes
        layers[name] = StoredLayer(form[0], of_layer, form[1])
    return layers, [vector for of_layer in vectors.values() for vector in of_layer.values()]
