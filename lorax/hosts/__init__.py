"""Where the tab runs: nothing else in this package knows a WebUI."""

from lorax.hosts.base import Host, Shot

__all__ = ["Host", "Shot"]
