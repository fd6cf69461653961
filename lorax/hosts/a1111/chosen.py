"""Which checkpoint the WebUI works with, and how it returns to it.

Most WebUIs load a checkpoint when it is chosen. Forge and Neo are lazy: they note what is chosen, and load it when a picture
needs it. Before the first picture, a stand-in without a checkpoint is in the place of the model.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modules import sd_models, shared

log = logging.getLogger(__name__)
SELECTED = "sd_model_checkpoint"  # the setting
_NO_JOB = object()
_kept: Any = _NO_JOB  # what is loaded again at the end of ``kept``, which may be nothing


def checkpoint() -> Any:
    """Return the CheckpointInfo of what is loaded, in a lazy WebUI of what the next picture loads; None if there is none."""
    if is_lazy():
        return sd_models.model_data.forge_loading_parameters.get("checkpoint_info")
    return getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)  # reading shared.sd_model would load one


def shown() -> Any:
    """Return the CheckpointInfo that the user draws with: not what a job has loaded for a while."""
    return checkpoint() if _kept is _NO_JOB else _kept


@contextmanager
def kept() -> Iterator[None]:
    """Load, at the end of the block, the checkpoint that was loaded at its start, if another one is loaded by then.

    A lazy WebUI needs nothing: what we do there leaves its choice as it is. What the block has done stands, also if this fails.
    """
    global _kept
    if is_lazy():
        yield
        return
    _kept = before = checkpoint()
    try:
        yield
    finally:
        try:
            if checkpoint() is not before:
                with sd_models.SkipWritingToConfig():  # the user may have selected another one in the meantime
                    sd_models.reload_model_weights(info=before)
        except Exception:  # the WebUI tries again before the next picture, and says why it fails
            log.exception("%s could not be loaded again", before)
        finally:
            _kept = _NO_JOB


def choose(name: str) -> None:
    """Have a lazy WebUI draw the next picture with this checkpoint, as its page has another one do.

    Forge's page notes a checkpoint when its list changes: not if the list shows it already, while the API has chosen another.
    """
    info = sd_models.get_closet_checkpoint_match(name)
    if is_lazy() and info and info is not checkpoint():
        if shared.opts.set(SELECTED, info.name):  # not if settings are frozen
            shared.opts.save(shared.config_filename)
        sd_models.model_data.forge_loading_parameters = {**sd_models.model_data.forge_loading_parameters, "checkpoint_info": info}


def selected() -> Any:
    """Return the checkpoint that is selected in the settings, by its title; None if none is."""
    return shared.opts.data.get(SELECTED)


def is_selected(name: str) -> bool:
    """Tell whether the checkpoint of this name is selected, by whichever of its titles the WebUI has noted it."""
    info = sd_models.get_closet_checkpoint_match(selected() or "")
    return info is not None and info.name == name


def select(title: Any) -> None:
    """Have the settings select a checkpoint again, without loading it."""
    if title is not None:
        shared.opts.data[SELECTED] = title


def list_anew() -> None:
    """Have the WebUI look for checkpoints. With --ckpt it selects that file then, whatever the user has selected since."""
    before = selected()
    sd_models.list_models()
    select(before)


def load() -> None:
    """Load the checkpoint that the settings select, which a picture of another one has replaced. A lazy WebUI does by itself."""
    if not is_lazy():
        sd_models.reload_model_weights()


def is_lazy() -> bool:
    """Tell whether the WebUI loads a checkpoint once a picture needs it."""
    return hasattr(sd_models.model_data, "forge_loading_parameters")
