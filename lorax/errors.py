"""The one error that a user is meant to read, two kinds of it that ``inspect`` tells apart, and the stop that a user asks for."""


class LoraxError(Exception):
    """Something about the input is wrong. The message says which file, which key, what was expected and what to do."""


class UnsupportedFamily(LoraxError):
    """A base, but of a family of which nothing can be moved yet. ``title`` names the family."""

    def __init__(self, message: str, title: str) -> None:
        super().__init__(message)
        self.title = title


class NotAnAdapter(LoraxError):
    """A readable file or folder in which nothing looks like an adapter."""


class Interrupted(Exception):
    """The user asked for the work to stop. Nothing is left behind."""
