"""The API for programs, over HTTP."""

from lorax.api.routes import ApiJob, router

__all__ = ["ApiJob", "router"]
