"""Exceptions: errors with a message for the user, and an interruption by the user."""


class LoraxError(Exception):
    """A problem with the input. The message names the file and the key, what was expected and what to do."""


class UnsupportedFamily(LoraxError):
    """A base of an unsupported family. ``title`` names the family."""

    def __init__(self, message: str, title: str) -> None:
        super().__init__(message)
        self.title = title


class NotAnAdapter(LoraxError):
    """A readable file or folder that holds nothing like an adapter."""


class Interrupted(Exception):
    """A stop by the user. No partial output remains."""
