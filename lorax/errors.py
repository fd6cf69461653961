"""The one error that a user is meant to read."""


class LoraxError(Exception):
    """Something about the input is wrong. The message says which file, which key, what was expected and what to do."""
