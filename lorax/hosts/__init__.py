"""Hosts: the programs in which the tab and the API run. No other package knows a WebUI."""
