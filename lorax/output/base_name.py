"""Names the kind of a base as Civitai does, such as ``SDXL 1.0`` or ``Pony``, by which other programs know a LoRA's base."""

import re

from lorax.checkpoint import SDXL, Checkpoint
from lorax.formats import sidecars

# Kinds of SDXL bases for which LoRAs are listed apart -> what the names of such bases have in them, in letters and digits only.
KINDS = {"Illustrious": "illustrious", "NoobAI": "noobai", "Pony": "pony"}


def civitai_name(base: Checkpoint) -> str:
    """Return Civitai's name of the base's kind: by the files beside it, else by its file's name and title, else by its family."""
    if base.path.is_file() and (told := sidecars.read(base.path).base):
        return told
    titles = (base.title, base.unet_file.metadata.get("modelspec.title", "")) if base.family == SDXL else ()
    names = [re.sub(r"[^a-z0-9]", "", title.lower()) for title in titles]
    return next((kind for name in names for kind, mark in KINDS.items() if mark in name), base.family.civitai)
