"""A network type for the WebUI's built-in extension Lora, so that ``<lora:name:1>`` loads LoRA-X files.

The WebUI loads a file, and the network type gives it placeholders as modules. Once a prompt has activated its networks, the
placeholders are replaced by the WebUI's own modules of a plain LoRA, fitted to the loaded checkpoint. Then the picture is drawn.
"""

from collections.abc import Callable

from lorax.files import Cache

SCRIPT = "LoraxNetworks"  # name of the script class


def register(cache: Callable[[], Cache], device: Callable[[], str] = lambda: "auto") -> type | None:
    """Register the network type; return the script class that fits networks, or None if the host has no network types.

    The WebUI looks for script classes in modules of ``scripts/``: ``LoraxNetworks = register(...)``. ``cache`` is called once,
    when the first network is fitted; ``device`` for each network, and ``auto`` is the WebUI's device. Reload UI calls this again.
    """
    try:
        import networks

        kinds = networks.module_types
    except (ImportError, AttributeError):
        return None
    # These import the extension, which may be missing.
    from lorax.hosts.a1111.network.activation import make_script
    from lorax.hosts.a1111.network.module_type import ModuleTypeLorax

    others = [kind for kind in kinds if type(kind).__name__ != ModuleTypeLorax.__name__]
    kinds[:] = [ModuleTypeLorax(), *others]  # first, so that no other type claims a layer's alpha
    return make_script(cache, device)
