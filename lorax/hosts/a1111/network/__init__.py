"""``<lora:name:1>`` loads LoRA-X files in the WebUI: a network type for its built-in Lora extension.

The host loads the file and asks the network type for its modules, which are placeholders. Once the prompt has activated its
networks and before anything is drawn, the placeholders give way to the host's own modules of a plain LoRA, fitted to the
checkpoint that is loaded. From there on the host treats the network as that plain LoRA.
"""

from __future__ import annotations

from collections.abc import Callable

from lorax.files import Cache

SCRIPT = "LoraxNetworks"  # name of the script class


def register(cache: Callable[[], Cache], device: Callable[[], str] = lambda: "auto") -> type | None:
    """Register the network type; return the script class that fits networks, or None in a host without network types.

    That is one whose built-in Lora extension is disabled, or whose own does not have them.

    For a module in ``scripts/``, in whose namespace the WebUI looks for script classes: ``LoraxNetworks = register(...)``.
    ``cache`` is called once, when the first network is fitted; ``device`` for each, and ``auto`` is the host's own. May be called
    again after Reload UI.
    """
    try:
        import networks

        kinds = networks.module_types
    except (ImportError, AttributeError):
        return None
    # These import the host's extension, which may be missing.
    from lorax.hosts.a1111.network.activation import make_script
    from lorax.hosts.a1111.network.module_type import ModuleTypeLorax

    kept = [kind for kind in kinds if type(kind).__name__ != ModuleTypeLorax.__name__]
    kinds[:] = [ModuleTypeLorax(), *kept]  # first, so that no other type claims a layer's alpha
    return make_script(cache, device)
