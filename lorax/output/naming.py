"""Names written files."""

import os
from dataclasses import dataclass
from pathlib import Path

from lorax.errors import LoraxError
from lorax.files import title_of
from lorax.methods import runs_models
from lorax.options import LORAX, Saving
from lorax.transfer import Plan

LONGEST = 239  # bytes of a name, which leaves room for the endings of the files beside it: systems allow 255


@dataclass(frozen=True)
class Naming:
    """What the name of a written file tells: the adapter's file or folder, the files of the bases, and the method."""

    given: Path
    source: Path
    target: Path
    method: str

    @classmethod
    def of(cls, plan: Plan) -> "Naming":
        return cls(plan.adapter.given, plan.source.path, plan.target.path, plan.options.method)

    def file_name(self, saving: Saving) -> str:
        """Return the file's name. By default it has the target's if it holds moved layers, ``lorax`` if it is a LoRA-X file.

        Raises LoraxError if the name is too long.
        """
        target = "{target}" if holds_moved(self.method, saving) else ""
        usual = "-".join(filter(None, ("{lora}", target, "lorax" if saving.save_as == LORAX else "")))
        titles = {"lora": title_of(self.given), "target": title_of(self.target), "source": title_of(self.source)}
        name = saving.file_name(usual, **titles, method=self.method)
        if (length := len(os.fsencode(name))) > LONGEST:
            raise LoraxError(f"{name}: a name of {length} bytes; at most {LONGEST} are allowed. Choose a shorter output name.")
        return f"{name}.safetensors"


def holds_moved(method: str, saving: Saving) -> bool:
    """Tell whether the file holds moved layers: a plain LoRA, or the result of running models, which a LoRA-X file cannot fit."""
    return saving.save_as != LORAX or runs_models(method)
