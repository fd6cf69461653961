"""``python -m lab STEP``: train the small models, bundle them, measure transfers. Every step is seeded and resumable.

Steps in order: tokenizer, vae, base, finetune, pruned, bundle, loras, figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import AutoencoderKL

from lab import data, ldm, lora, unet, vae
from lab.models import Captioner, Model, train_tokenizer
from lab.paths import CACHE, CHECKPOINTS, EXTRA_LORAS, LORAS, MODELS, RUNS
from lorax.checkpoint import open_checkpoint
from lorax.demo import STYLE
from lorax.demo.bundle import BASE, FINETUNE, PRUNED, pack, unpack

STEPS = {"vae": 1300, BASE: 2400, FINETUNE: 300, PRUNED: 300, "lora": 150}


def tokenizer() -> None:
    captions = [caption for role in ("base", "finetune") for caption in data.load(*data.names(role)).captions]
    train_tokenizer(captions, CACHE / "tokenizer")


def autoencoder() -> None:
    vae.train(RUNS, STEPS["vae"]).save_pretrained(CACHE / "vae")


def base() -> None:
    unet.train_base(RUNS, *_shared(), STEPS[BASE]).save(CACHE / BASE)


def finetune() -> None:
    unet.train_finetune(RUNS, Model.load(CACHE / BASE), *_shared(), STEPS[FINETUNE]).save(CACHE / FINETUNE)


def pruned() -> None:
    unet.train_pruned(RUNS, Model.load(CACHE / BASE), *_shared(), STEPS[PRUNED]).save(CACHE / PRUNED)


def bundle() -> None:
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


def loras() -> None:
    """Every style on the base, and natively on both targets as the upper bound."""
    unpack(CHECKPOINTS)
    for name, style in lora.STYLES.items():
        for seed, target in enumerate((BASE, FINETUNE, PRUNED)):
            path = lora_path(name, target)
            if not path.exists():
                model = lora.train_lora(
                    f"{name}-{target}", RUNS, Model.load(CACHE / target), style, *_shared(), steps=STEPS["lora"], seed=seed
                )
                lora.save_lora(path, model, open_checkpoint(CHECKPOINTS / f"{target}.safetensors"), style, STEPS["lora"])


def figures() -> None:
    from lab.figures import main

    main()


def lora_path(style: str, target: str) -> Path:
    """Of a style's LoRA trained on ``target``: committed if the demo draws it, else kept in the cache."""
    committed = style == STYLE
    return (LORAS if committed else EXTRA_LORAS) / f"{style}-{target}.safetensors"


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
    COMMANDS[parser.parse_args().step]()
