"""What the tab and the API need from the program that they run in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lorax.catalog import ListedFile
from lorax.files import Cache
from lorax.models import Models
from lorax.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Shot:
    """One picture of a comparison: which base with which adapter."""

    title: str
    base: ListedFile
    adapter: ListedFile | None


class Host(Protocol):
    """A WebUI, or a folder of models."""

    notice: str  # what is missing in this host, for the head of the tab; else empty
    adapter_folder: Path  # outputs go here, or below
    picture_size: int | None  # default size of compared pictures; None where the model says it
    has_prompt: bool  # whether a prompt tag can be sent to a txt2img tab

    def bases(self) -> dict[str, ListedFile]: ...

    def adapters(self) -> dict[str, ListedFile]: ...

    def prompt_names(self) -> Mapping[str, Path]:
        """Name of a LoRA in prompts -> the file, as the disk is now. Empty in a host without prompts."""

    def loaded(self) -> str | None:
        """Name of the base that the host has loaded."""

    def refresh(self) -> None:
        """Look on the disk for models anew."""

    def defaults(self) -> Mapping[str, Any]:
        """Defaults of options that the user has set in the host, by the options' names."""

    def cache(self) -> Cache | None:
        """Where what is found of the bases is kept, if it is to be kept."""

    def device(self) -> str:
        """The device that ``auto`` stands for."""

    def models(self) -> Models | None:
        """What runs bases for the methods that need it, within ``run`` or ``handler``; None where diffusers is to."""

    def run(self, work: Callable[[Progress], T], progress: Progress) -> T:
        """Do the work alone, in the host's queue; ``progress`` hears of it too, and may stop it.

        What the host had loaded before is loaded again at the end, however the work ends.
        """

    def handler(self, work: Callable[..., Sequence[Any]], outputs: int) -> Callable[..., Sequence[Any]]:
        """A gradio handler of a long job, run in the host's queue with its progress bar, and as ``run`` does.

        ``work(progress, *values of the inputs but the first)`` returns values for the outputs, the last one HTML.
        """

    def interrupt(self) -> None:
        """Stop the job that a handler runs, after its current step; if none runs, those that wait in the queue."""

    def tag(self, adapter: Path) -> str:
        """What to write in the prompt."""

    def pictures(
        self, shots: Sequence[Shot], prompt: str, seed: int, steps: int, size: int | None, progress: Progress
    ) -> tuple[list[Any], list[str]]:
        """A PIL image per shot, and what the host has to say of them, as of a LoRA that was not applied.

        What was loaded before is loaded again at the end. Raises LoraxError where a shot cannot be drawn.
        """
