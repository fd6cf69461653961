"""A folder of models instead of a WebUI, for ``python -m lorax serve``."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lorax import catalog
from lorax.catalog import FileKind, ListedFile
from lorax.checkpoint import open_checkpoint
from lorax.devices import pick_device
from lorax.errors import LoraxError
from lorax.files import Cache, as_utf8, files_below
from lorax.formats import open_adapter
from lorax.hosts.base import Drawing, Drawn, Shot, T
from lorax.hosts.jobs import Jobs
from lorax.progress import Progress

SUFFIXES = (".safetensors", ".ckpt")
LOOK_EVERY = 0.5  # seconds between looks at whether a job that waits was stopped
ADAPTER_FOLDERS = ("Lora", "loras")  # the WebUI's name and ComfyUI's


class Standalone:
    """A host over the checkpoints and LoRAs anywhere inside ``folder``, which are distinguished by their headers."""

    notice = without_lorax = ""
    picture_size: int | None = None
    has_prompt = False
    opens_folders = False

    def __init__(self, folder: Path, cache: Cache | None = None) -> None:
        if not folder.is_dir():
            raise LoraxError(f"{folder}: no such folder. Name the one that holds checkpoints and LoRAs.")
        self.folder, self._cache = folder, cache
        self.adapter_folder = next((folder / name for name in ADAPTER_FOLDERS if (folder / name).is_dir()), folder)
        self._alone, self.jobs = threading.Lock(), Jobs()
        self._found: dict[FileKind, dict[str, ListedFile]] = {}
        catalog.keep_in(cache.folder if cache and cache.is_on_disk else None)
        self.refresh()

    def bases(self) -> dict[str, ListedFile]:
        return self._found[FileKind.BASE]

    def adapters(self) -> dict[str, ListedFile]:
        return self._found[FileKind.ADAPTER]

    def prompt_names(self) -> Mapping[str, Path]:
        return {}

    def loaded(self) -> str | None:
        return None

    def refresh(self) -> None:
        """Look for files. One that cannot be read is listed too, as an adapter, and refused when it is used."""
        found: dict[FileKind, dict[str, ListedFile]] = {kind: {} for kind in FileKind}
        for path in sorted(files_below(self.folder, SUFFIXES)):
            listed, name = found[catalog.record(path).kind], as_utf8(path.relative_to(self.folder).with_suffix("").as_posix())
            while name in listed:  # two files may differ only in their suffix, or in what cannot be shown
                name += path.suffix
            listed[name] = ListedFile(name, path)
        self._found = found

    def choose(self, base: str) -> None:
        """Do nothing: here, each picture names its base."""

    def defaults(self) -> Mapping[str, Any]:
        return {}

    def cache(self) -> Cache | None:
        return self._cache

    def device(self) -> str:
        return "auto"

    def models(self) -> None:
        return None

    def run(self, work: Callable[[Progress], T], progress: Progress) -> T:
        while not self._alone.acquire(timeout=LOOK_EVERY):
            progress(0, 0, "")  # raises Interrupted if the job was stopped, so that it does not keep its place
        try:
            return work(progress)
        finally:
            self._alone.release()

    def interrupt(self) -> None:
        """Do nothing: here, whatever runs asks its progress whether it is to stop."""

    def open_folder(self, folder: Path) -> None:
        raise LoraxError(f"{folder}: cannot be opened from here.")

    def tag(self, adapter: Path, strength: float = 1.0) -> str:
        return f"<lora:{adapter.stem}:{strength:g}>"

    def samplers(self) -> Sequence[str]:
        return ()

    def schedules(self) -> Sequence[str]:
        return ()

    def pictures(self, shots: Sequence[Shot], drawing: Drawing, progress: Progress) -> Iterator[Drawn]:
        """Draw with DDIM, in the base's own size; see ``Host.pictures``."""
        try:
            from lorax.runner import Runners
        except ModuleNotFoundError as error:
            raise LoraxError(f"Pictures need {error.name}. Install its packages: pip install -e '.[demo]'") from error
        from PIL import Image

        if fitted := next((shot.adapter for shot in shots if shot.adapter and open_adapter(shot.adapter.path).header), None):
            raise LoraxError(
                f"{fitted.name}: a LoRA-X file is fitted when the WebUI draws with it. Compare there, or save a plain LoRA."
            )
        done = 0
        for base, following in groupby(shots, key=lambda shot: shot.base.path):
            runners = Runners(pick_device("auto"), tokenizer=_tokenizer(base, self.folder))
            with runners.opened(open_checkpoint(base)) as runner:
                for shot in following:
                    progress(done, len(shots), shot.title)
                    with runner.adapted(shot.adapter.path if shot.adapter else None, shot.strength):
                        (picture,) = runner.sample(
                            [drawing.prompt], [shot.seed], steps=drawing.steps, guidance=drawing.cfg, negative=drawing.negative
                        )
                    done += 1
                    yield Drawn(Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).cpu().numpy()))


def _tokenizer(base: Path, root: Path) -> Path:
    folders = [parent / "tokenizer" for parent in base.parents if parent.is_relative_to(root)]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise LoraxError(
            f"{base}: pictures need a tokenizer folder with CLIP's vocab.json and merges.txt, beside the checkpoint or above it. "
            "Copy the one of a diffusers model there, or compare in the WebUI instead."
        )
    return found
