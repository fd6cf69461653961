"""The API for programs, ``/lorax/v1/``. Files have the names under which the host lists them, never paths; captions are texts.

It works with pydantic 1 and 2, and with the FastAPI of both hosts, which do not read postponed annotations.
"""

from lorax.api.routes import router

__all__ = ["router"]
