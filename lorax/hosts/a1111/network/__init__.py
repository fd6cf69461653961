"""Has ``<lora:name:1>`` load LoRA-X files, by what the WebUI's built-in extension Lora offers.

If it has network types (AUTOMATIC1111), ours gives placeholders as modules when the WebUI loads a file. Once a prompt has
activated its networks, they are replaced by the WebUI's own modules of a plain LoRA, fitted to the loaded checkpoint. If it
patches LoRAs in from the tensors of their files (Forge, Forge Neo, reForge), ours gives it the tensors of the fitted LoRA.
"""

from collections.abc import Callable
from types import ModuleType

from lorax.files import Cache

SCRIPT = "LoraxNetworks"  # name of the script class


def register(cache: Callable[[], Cache], device: Callable[[], str] = lambda: "auto") -> type | None:
    """Register what applies LoRA-X files; return the script class that belongs to it, or None if the extension is disabled.

    The WebUI looks for script classes in modules of ``scripts/``: ``LoraxNetworks = register(...)``. ``cache`` is called once,
    when the first network is fitted; ``device`` for each network, and ``auto`` is the WebUI's device. Reload UI calls this again.
    """
    try:
        import networks
    except ImportError:
        return None
    # These import the extension, which may be missing.
    if hasattr(networks, "module_types"):
        from lorax.hosts.a1111.network.activation import make_script
        from lorax.hosts.a1111.network.module_type import ModuleTypeLorax

        others = [kind for kind in networks.module_types if type(kind).__name__ != ModuleTypeLorax.__name__]
        networks.module_types[:] = [ModuleTypeLorax(), *others]  # first, so that no other type claims a layer's alpha
        return make_script(cache, device)
    if hasattr(networks, "load_lora_state_dict"):
        from lorax.hosts.a1111.network import state_dicts

        return state_dicts.make_script(cache, device)
    if hasattr(networks, "available_networks"):
        from lorax.hosts.a1111.network import unknown

        return unknown.make_script()
    return None  # a module of another program


def applies(networks: ModuleType) -> bool:
    """Tell whether the extension Lora lets others apply LoRA-X files."""
    return hasattr(networks, "module_types") or hasattr(networks, "load_lora_state_dict")
