"""The one error that a user is meant to read, and the two kinds of it that ``inspect`` tells apart."""


class LoraxError(Exception):
    """Something about the input is wrong. The message says which file, which key, what was expected and what to do."""


class UnsupportedFamily(LoraxError):
    """A base, but of a family of which nothing can be moved yet. ``title`` names the family."""

    def __init__(self, message: str, title: str) -> None:
        super().__init__(message)
        self.title = title


class NotAnAdapter(LoraxError):
    """A readable file or folder in which nothing looks like an adapter."""
