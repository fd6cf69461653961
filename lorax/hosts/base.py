"""The interface of a host: the program in which the tab and the API run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """One picture of a comparison: a base, with an adapter at a strength or without."""

    title: str
    base: ListedFile
    adapter: ListedFile | None
    strength: float = 1.0
    seed: int = 7


@dataclass(frozen=True)
class Drawing:
    """How the pictures of a comparison are drawn. Sampler, schedule and size are the host's or the model's own if not given."""

    prompt: str
    negative: str = ""
    steps: int = 20
    cfg: float = 7.0
    sampler: str = ""
    schedule: str = ""
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Drawn:
    """A PIL image, and the host's comments on it, such as that a LoRA was not applied."""

    picture: Any
    comments: Sequence[str] = ()


class Host(Protocol):
    """A WebUI, or a folder of models."""

    notice: str  # shown at the top of the tab if this host lacks something, else empty
    adapter_folder: Path  # outputs are written into it or a folder inside
    picture_size: int | None  # default size of compared pictures in pixels; None if the model decides
    has_prompt: bool  # whether there is a txt2img tab, to which prompt tags can be sent

    def bases(self) -> dict[str, ListedFile]: ...

    def adapters(self) -> dict[str, ListedFile]: ...

    def prompt_names(self) -> Mapping[str, Path]:
        """Return the file of each LoRA by its name in prompts, from the disk as it is now; empty in a host without prompts."""

    def loaded(self) -> str | None:
        """Return the name of the loaded base, or None."""

    def refresh(self) -> None:
        """Read the lists of files from the disk again."""

    def defaults(self) -> Mapping[str, Any]:
        """Return the defaults that the user has set in the host, by option name."""

    def cache(self) -> Cache | None:
        """Return the cache for results about the bases, or None for no cache."""

    def device(self) -> str:
        """Return the device that ``auto`` stands for."""

    def models(self) -> Models | None:
        """Return what runs bases within ``run`` or ``handler``; None if diffusers is to run them."""

    def run(self, work: Callable[[Progress], T], progress: Progress) -> T:
        """Return the work's result. It runs alone, in the host's queue, and ``progress`` may raise to stop it.

        The base that was loaded before is loaded again at the end, however the work ends.
        """

    def handler(self, work: Callable[..., Sequence[Any]], outputs: int) -> Callable[..., Sequence[Any]]:
        """Make a gradio handler for a long job. It works as ``run`` does, and shows the host's progress bar.

        ``work(progress, *values of all inputs but the first)`` returns values for the outputs, the last one HTML.
        """

    def interrupt(self) -> None:
        """Stop the job that a handler runs, after its current step; if none runs, stop those that wait in the queue."""

    def tag(self, adapter: Path, strength: float = 1.0) -> str:
        """Return the adapter's tag for prompts."""

    def samplers(self) -> Sequence[str]:
        """Return the samplers of ``pictures`` by name, the default first; none if there is no choice."""

    def schedules(self) -> Sequence[str]:
        """Return the noise schedules of ``pictures`` by name, the default first; none if there is no choice."""

    def pictures(self, shots: Sequence[Shot], drawing: Drawing, progress: Progress) -> Iterator[Drawn]:
        """Draw the shots one after the other. Shots that follow each other on one base are drawn without loading it again.

        The base that was loaded before is loaded again at the end. Raises LoraxError if a shot cannot be drawn, and what
        ``progress`` raises to stop; what was yielded by then is whole.
        """
