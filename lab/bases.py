"""Steps that train the bases, from nothing or on from others, and bundle them."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL

from lab import bundle, data, unet, vae, xl
from lab.bundle import runner_of
from lab.models import Captioner, Model, new_text_encoder, new_unet, train_tokenizer
from lab.paths import CACHE, MODELS, RUNS
from lab.zoo import FINETUNES, FURTHER, LONGER, NEAR, SCRATCH, SCRATCH_AGAIN, SCRATCH_LONG, UNCOMMITTED, XL, XL_LONG, XL_PRUNED
from lorax.demo.bundle import BASE, FINETUNE, PRUNED

SEEDS = {SCRATCH: 4, XL: 5, SCRATCH_AGAIN: 9}
STEPS = {"vae": 5500, BASE: 10000, PRUNED: 800, SCRATCH: 3500, SCRATCH_AGAIN: 3500, XL: 3000, XL_PRUNED: 500}
STEPS |= {name: recipe.steps for name, recipe in FINETUNES.items()}
CONTINUED = ("tokenizer", "vae", BASE, SCRATCH, SCRATCH_AGAIN, XL)  # what can go on from what is there
ROUNDS = {SCRATCH_LONG: (7000,), XL_LONG: (5000, 3500, 2500)}  # each with a warm-up and a decay of its own


def tokenizer(options: argparse.Namespace) -> None:
    if options.go_on:
        shutil.copytree(MODELS / "tokenizer", CACHE / "tokenizer", dirs_exist_ok=True)
        return
    captions = [caption for role in ("base", "finetune") for caption in data.load(*data.names(role)).captions]
    train_tokenizer(captions, CACHE / "tokenizer")


def autoencoder(options: argparse.Namespace) -> None:
    start = runner_of(BASE).vae if options.go_on else None
    vae.train(RUNS, options.steps or STEPS["vae"], start).save_pretrained(CACHE / "vae")


def base(options: argparse.Namespace) -> None:
    torch.manual_seed(1)
    model = bundle.model_of(runner_of(BASE)) if options.go_on else Model(new_text_encoder(), new_unet())
    unet.train_from_nothing(BASE, RUNS, model, *_shared(), steps=options.steps or STEPS[BASE], seed=1).save(CACHE / BASE)


def finetune(options: argparse.Namespace) -> None:
    steps = options.steps or STEPS[FINETUNE]
    unet.train_finetune(FINETUNE, RUNS, Model.load(CACHE / BASE), *_shared(), steps).save(CACHE / FINETUNE)


def pruned(options: argparse.Namespace) -> None:
    unet.train_pruned(RUNS, Model.load(CACHE / BASE), *_shared(), options.steps or STEPS[PRUNED]).save(CACHE / PRUNED)


def another_finetune(options: argparse.Namespace) -> None:
    """Train a fine-tune that only the lab needs, from the committed base, and pack it."""
    name, shared = options.step, runner_of(BASE)
    start, captioner, steps = bundle.model_of(shared), Captioner(shared.tokenizer), options.steps or STEPS[name]
    bundle.write_finetune(name, unet.train_finetune(name, RUNS, start, shared.vae, captioner, steps), shared.vae)


def demo_bundle(options: argparse.Namespace) -> None:
    """Write ``lab/models``: the base whole, its siblings without what they share with it."""
    autoencoder, _ = _shared()
    bundle.write_demo({name: Model.load(CACHE / name) for name in (BASE, FINETUNE, PRUNED)}, autoencoder)


def headline_bundle(options: argparse.Namespace) -> None:
    """Write ``lab/headline``: the bases that only the lab needs."""
    models = {SCRATCH: Model.load(CACHE / SCRATCH)} | {name: xl.XLModel.load(CACHE / name) for name in (XL, XL_PRUNED)}
    bundle.write_headline(models, runner_of(BASE).vae)


def scratch(options: argparse.Namespace) -> None:
    _from_nothing(options, options.step, lambda: Model(new_text_encoder(), new_unet()))


def xl_base(options: argparse.Namespace) -> None:
    _from_nothing(options, XL, xl.new_xl)


def _from_nothing(options: argparse.Namespace, name: str, make: Callable[[], Model | xl.XLModel]) -> None:
    shared, steps, seed = runner_of(BASE), options.steps or STEPS[name], SEEDS[name]
    torch.manual_seed(seed)
    model = bundle.model_of(runner_of(name)) if options.go_on else make()
    captioner = Captioner(shared.tokenizer)
    model = unet.train_from_nothing(name, RUNS, model, shared.vae, captioner, steps=steps, seed=seed)
    if name in UNCOMMITTED:
        bundle.write_whole(name, model, shared.vae)
    else:
        model.save(CACHE / name)


def trained_on(options: argparse.Namespace) -> None:
    """Train a base on from the committed one, to draw as well as what is moved to it; it is not committed."""
    name, shared = options.step, runner_of(BASE)
    model, captioner, seed = bundle.model_of(runner_of(LONGER[name])), Captioner(shared.tokenizer), SEEDS[LONGER[name]]
    for number, steps in enumerate(ROUNDS[name]):
        run = name + "-again" * number
        model = unet.train_from_nothing(run, RUNS, model, shared.vae, captioner, steps=steps, seed=seed)
    bundle.write_whole(name, model, shared.vae)


def xl_pruned(options: argparse.Namespace) -> None:
    shared, teacher = runner_of(BASE), xl.XLModel.load(CACHE / XL)
    steps = options.steps or STEPS[XL_PRUNED]
    unet.train_xl_pruned(RUNS, teacher, shared.vae, Captioner(shared.tokenizer), steps).save(CACHE / XL_PRUNED)


def _shared() -> tuple[AutoencoderKL, Captioner]:
    return AutoencoderKL.from_pretrained(CACHE / "vae"), Captioner.load(CACHE / "tokenizer")


COMMANDS = {
    "tokenizer": tokenizer,
    "vae": autoencoder,
    BASE: base,
    FINETUNE: finetune,
    PRUNED: pruned,
    "bundle": demo_bundle,
    SCRATCH: scratch,
    SCRATCH_AGAIN: scratch,
    XL: xl_base,
    XL_PRUNED: xl_pruned,
    NEAR: another_finetune,
    FURTHER: another_finetune,
    **dict.fromkeys(LONGER, trained_on),
    "headline-bundle": headline_bundle,
}
