"""The names that adapter formats give to the layers of a base."""

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

from lorax.checkpoint.families import Family
from lorax.checkpoint.layer_names import TEXT_MODEL, UNetNames, component_of


class AdapterNames(Mapping[str, str]):
    """The layers of a base by every name in an adapter format. ``parameters``: its norms and biases, as ``unet.out.0.weight``."""

    def __init__(self, family: Family, unet: UNetNames, layers: Collection[str], parameters: Collection[str]) -> None:
        self._family, self._unet, self._layers, self._parameters = family, unet, layers, parameters

    def __getitem__(self, name: str) -> str:
        return self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @cached_property
    def norms(self) -> dict[str, str]:
        """The layers without a weight matrix, which have norms or biases, by every name."""
        return self._spelled({parameter.rpartition(".")[0] for parameter in self._parameters} - set(self._layers))

    def kohya(self, layer: str) -> str:
        """Return the layer's name in a written adapter, which every host finds.

        It is kohya's diffusers spelling if the UNet has SD 1.x's standard blocks. Otherwise, and for families for which kohya's
        own tools do so, it is the LDM spelling.
        """
        component = next(c for c in self._family.components if c.name == component_of(layer))
        path = layer.removeprefix(f"{component.name}.")
        if component.name == "unet" and not self._family.ldm_names and self._unet.is_standard():
            path = self._unet.to_diffusers(path)
        return component.kohya[0] + path.replace(".", "_")

    @cached_property
    def _names(self) -> dict[str, str]:
        return self._spelled(self._layers)

    def _spelled(self, layers: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for component in self._family.components:
            for layer in layers:
                head, _, path = layer.partition(".")
                if head != component.name:
                    continue
                other = self._unet.to_diffusers(path) if head == "unet" else path.removeprefix(TEXT_MODEL)
                for one in (path, other):
                    spelled = [prefix + one.replace(".", "_") for prefix in component.kohya]
                    spelled += [prefix + one for prefix in (*component.peft, *component.prefixes, "")]
                    for name in spelled:
                        found.setdefault(name, layer)
        return found
