"""LoRA-X files in WebUIs that give an extension no way to apply them: each picture's output says so."""

from typing import Any

from lorax.hosts.a1111 import tags
from lorax.hosts.a1111.network.fitting import NetworkScript, tell

NOT_APPLIED = "not applied, since this WebUI gives extensions no way to do so. Move the LoRA, and save it as a plain LoRA."


def make_script() -> type:
    """Make the script class that the WebUI calls once networks are activated."""

    class LoraxNetworks(NetworkScript):
        def after_extra_networks_activate(self, p: Any, *args: Any, extra_network_data: dict[str, Any], **kwargs: Any) -> None:
            for name in sorted({asked.positional[0] for asked in extra_network_data.get("lora", [])}):
                if tags.is_lorax(name):
                    tell(p, name, NOT_APPLIED)

    return LoraxNetworks
