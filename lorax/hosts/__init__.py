"""Where the tab runs: nothing outside of this package knows a WebUI."""
