"""The interface of a host: the program in which the tab and the API run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lorax.catalog import ListedFile
from lorax.files import Cache
from lorax.hosts.jobs import Jobs
from lorax.methods import runs_models
from lorax.models import Models
from lorax.options import Options
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
    without_lorax: str  # says what to do if prompts cannot load LoRA-X files here, else empty
    adapter_folder: Path  # outputs are written into it or a folder inside
    picture_size: int | None  # default size of compared pictures in pixels; None if the model decides
    has_prompt: bool  # whether there is a txt2img tab, to which prompt tags can be sent
    jobs: Jobs  # of the tab and of the API; they outlive the page

    def bases(self) -> dict[str, ListedFile]: ...

    def adapters(self) -> dict[str, ListedFile]: ...

    def prompt_names(self) -> Mapping[str, Path]:
        """Return the file of each LoRA by its name in prompts, from the disk as it is now; empty in a host without prompts."""

    def loaded(self) -> str | None:
        """Return the name of the loaded base, or None."""

    def choose(self, base: str) -> None:
        """Have the next picture drawn on this base, if the page's script is not enough for that."""

    def refresh(self) -> None:
        """Read the lists of files from the disk again."""

    def defaults(self) -> Mapping[str, Any]:
        """Return the defaults that the user has set in the host, by option name."""

    def cache(self) -> Cache | None:
        """Return the cache for results about the bases, or None for no cache."""

    def device(self) -> str:
        """Return the device that ``auto`` stands for."""

    def models(self) -> Models | None:
        """Return what runs bases within ``run``; None if diffusers is to run them."""

    def run(self, work: Callable[[Progress], T], progress: Progress) -> T:
        """Return the work's result. It runs alone, in the host's queue, and ``progress`` may raise to stop it.

        The base that was loaded before is loaded again at the end, however the work ends.
        """

    def interrupt(self) -> None:
        """Have what the host computes for the running job end at its next step, such as a picture."""

    @property
    def opens_folders(self) -> bool:
        """Whether the user may have a folder opened, which shows on the screen of the machine that the host runs on."""

    def open_folder(self, folder: Path) -> None:
        """Show the folder in the system's file manager."""

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


def placed(host: Host, options: Options) -> Options:
    """Return the options with the device that computes: the chosen one, but that of a host which runs the models itself."""
    is_own = host.models() is not None and runs_models(options.method)
    return replace(options, device=host.device()) if options.device == "auto" or is_own else options
