"""``python -m lab STEP``: train the small models, bundle them, measure transfers. Every step is seeded and resumable.

Steps in order: tokenizer, vae, base, finetune, pruned, bundle, loras, figures.
"""

from __future__ import annotations

import argparse
import shutil

from diffusers import AutoencoderKL

from lab import data, ldm, lora, unet, vae
from lab.models import Captioner, Model, train_tokenizer
from lab.paths import CACHE, CHECKPOINTS, MODELS, RUNS, lora_path
from lorax.demo.bundle import BASE, FINETUNE, PRUNED, pack, unpack
from lorax.runner import Runner

STEPS = {"vae": 5500, BASE: 10000, FINETUNE: 1000, PRUNED: 800}


def tokenizer(options: argparse.Namespace) -> None:
    if options.go_on:
        shutil.copytree(MODELS / "tokenizer", CACHE / "tokenizer", dirs_exist_ok=True)
        return
    captions = [caption for role in ("base", "finetune") for caption in data.load(*data.names(role)).captions]
    train_tokenizer(captions, CACHE / "tokenizer")


def autoencoder(options: argparse.Namespace) -> None:
    start = _bundled(BASE).vae if options.go_on else None
    vae.train(RUNS, options.steps or STEPS["vae"], start).save_pretrained(CACHE / "vae")


def base(options: argparse.Namespace) -> None:
    bundled = _bundled(BASE) if options.go_on else None
    start = Model(bundled.text_encoder, bundled.unet) if bundled else None
    unet.train_base(RUNS, *_shared(), options.steps or STEPS[BASE], start).save(CACHE / BASE)


def finetune(options: argparse.Namespace) -> None:
    unet.train_finetune(RUNS, Model.load(CACHE / BASE), *_shared(), options.steps or STEPS[FINETUNE]).save(CACHE / FINETUNE)


def pruned(options: argparse.Namespace) -> None:
    unet.train_pruned(RUNS, Model.load(CACHE / BASE), *_shared(), options.steps or STEPS[PRUNED]).save(CACHE / PRUNED)


def bundle(options: argparse.Namespace) -> None:
    """Write ``lab/models``: the base whole, its siblings without what they share with it."""
    autoencoder, _ = _shared()
    states = {}
    MODELS.mkdir(parents=True, exist_ok=True)
    for name in (BASE, FINETUNE, PRUNED):
        model = Model.load(CACHE / name)
        parts = (ldm.unet_state(model.unet), ldm.text_encoder_state(model.text_encoder), ldm.vae_state(autoencoder))
        states[name] = {key: value.half() for part in parts for key, value in part.items()}
        pack(MODELS / f"{name}.safetensors", states[name], {} if name == BASE else states[BASE])
        (MODELS / f"{name}.yaml").write_text(ldm.yaml_of(model.unet, autoencoder), encoding="utf-8")
    ldm.save_tokenizer(CACHE / "tokenizer", Model.load(CACHE / BASE).text_encoder, MODELS / "tokenizer")


def loras(options: argparse.Namespace) -> None:
    """Every style on the committed base, and natively on both committed targets as the upper bound."""
    for name, style in lora.STYLES.items():
        for seed, target in enumerate((BASE, FINETUNE, PRUNED)):
            runner = _bundled(target)
            start, captioner = Model(runner.text_encoder, runner.unet), Captioner(runner.tokenizer)
            model = lora.train_lora(f"{name}-{target}", RUNS, start, style, runner.vae, captioner, seed=seed)
            lora.save_lora(lora_path(name, target), model, runner.base, style)


def figures(options: argparse.Namespace) -> None:
    from lab.figures import main

    main()


def _bundled(name: str) -> Runner:
    """A committed model."""
    tokenizer = unpack(CHECKPOINTS)
    return Runner(CHECKPOINTS / f"{name}.safetensors", tokenizer)


def _shared() -> tuple[AutoencoderKL, Captioner]:
    return AutoencoderKL.from_pretrained(CACHE / "vae"), Captioner.load(CACHE / "tokenizer")


COMMANDS = {
    "tokenizer": tokenizer,
    "vae": autoencoder,
    BASE: base,
    FINETUNE: finetune,
    PRUNED: pruned,
    "bundle": bundle,
    "loras": loras,
    "figures": figures,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=COMMANDS)
    parser.add_argument("--steps", type=int, help=f"optimiser steps (default: {STEPS})")
    parser.add_argument("--continue", action="store_true", dest="go_on", help="tokenizer, vae, base: from the committed files")
    options = parser.parse_args()
    COMMANDS[options.step](options)
