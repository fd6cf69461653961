"""``python -m lab STEP``: train the small models, bundle them, measure transfers. Every step is seeded and resumable.

Steps in order: tokenizer, vae, base, finetune, pruned, bundle; from what they commit: scratch, xl, xl-pruned, headline-bundle,
near, further, scratch-long, xl-long, loras, classifier; then sweep, behaviour, adapters, probe, forecast, pictures,
summary, report and pack, or headline and compare.
By pictures, of LoRAs that are seen at a glance: loras, judge, look, blind, grids and seen.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from lab import bundle, constrained, data, judging, lora, probing, sweep, unet, vae, xl
from lab.bundle import runner_of
from lab.classifier import train_classifier
from lab.eye import FOLDER, blind, compared, grids, look, records, redraw, seen, train_judges
from lab.forecast import forecast
from lab.models import Captioner, Model, new_text_encoder, new_unet, train_tokenizer
from lab.paths import CACHE, MODELS, RERUN, RESULTS, RUNS
from lab.report import print_comparison, print_summary, report
from lab.results import Results, pack
from lab.side_by_side import side_by_side
from lab.zoo import (
    ADAPTERS,
    BASES,
    FINETUNES,
    FURTHER,
    HEADLINE_PAIRS,
    LONGER,
    LOOKED_AT,
    NEAR,
    OWN_ICONS,
    SCRATCH,
    SCRATCH_LONG,
    STYLES,
    XL,
    XL_LONG,
    XL_PRUNED,
)
from lorax.demo.bundle import BASE, FINETUNE, PRUNED

SEEDS = {SCRATCH: 4, XL: 5}
STEPS = {"vae": 5500, BASE: 10000, PRUNED: 800, SCRATCH: 3500, XL: 3000, XL_PRUNED: 500}
STEPS |= {name: recipe.steps for name, recipe in FINETUNES.items()}
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
    _from_nothing(options, SCRATCH, lambda: Model(new_text_encoder(), new_unet()))


def xl_base(options: argparse.Namespace) -> None:
    _from_nothing(options, XL, xl.new_xl)


def _from_nothing(options: argparse.Namespace, name: str, make: Callable[[], Model | xl.XLModel]) -> None:
    shared, steps, seed = runner_of(BASE), options.steps or STEPS[name], SEEDS[name]
    torch.manual_seed(seed)
    model = bundle.model_of(runner_of(name)) if options.go_on else make()
    captioner = Captioner(shared.tokenizer)
    unet.train_from_nothing(name, RUNS, model, shared.vae, captioner, steps=steps, seed=seed).save(CACHE / name)


def trained_on(options: argparse.Namespace) -> None:
    """Train a base on from the committed one, to draw as well as what is moved to it; it is not committed."""
    name, shared = options.step, runner_of(BASE)
    model, captioner, seed = bundle.model_of(runner_of(LONGER[name])), Captioner(shared.tokenizer), SEEDS[LONGER[name]]
    for number, steps in enumerate(ROUNDS[name]):
        run = name + "-again" * number
        model = unet.train_from_nothing(run, RUNS, model, shared.vae, captioner, steps=steps, seed=seed)
    bundle.write_longer(name, model, shared.vae)


def xl_pruned(options: argparse.Namespace) -> None:
    shared, teacher = runner_of(BASE), xl.XLModel.load(CACHE / XL)
    steps = options.steps or STEPS[XL_PRUNED]
    unet.train_xl_pruned(RUNS, teacher, shared.vae, Captioner(shared.tokenizer), steps).save(CACHE / XL_PRUNED)


def loras(options: argparse.Namespace) -> None:
    """Every adapter on every base that is there: on a source it is what is moved, on a target the upper bound of a transfer."""
    for adapter in ADAPTERS.values():
        for seed, base in enumerate(adapter.bases):
            name = f"{adapter.name}-{base}"
            if not fnmatch(name, options.only) or not bundle.is_made(base):
                continue
            if not adapter.path(base).exists():
                runner = runner_of(base)
                captioner = Captioner(runner.tokenizer)
                model = lora.train_lora(RUNS, bundle.model_of(runner), adapter, runner.vae, captioner, name=name, seed=seed)
                lora.save_lora(adapter.path(base), model, runner.base, adapter)
            if (packed := adapter.packed(base)) and not packed.exists():
                bundle.keep_lora(adapter.path(base), packed)


def full_sweep(options: argparse.Namespace) -> None:
    """Measure everything that is not stored yet."""
    _measure(sweep.full(), options)


def headline(options: argparse.Namespace) -> None:
    """Measure what the headline tables need, and draw the README's styles on two pairs, apart from the committed results."""
    if options.target is None:
        data.load(*data.COMMON, *STYLES)  # what is rendered is rendered once, and not by each process
        side_by_side(options.step, [target for _, target in HEADLINE_PAIRS], options.results)
        return
    _measure(sweep.headline(), options)
    redraw(options.results, options.target)


def behaviour(options: argparse.Namespace) -> None:
    """Measure the methods that run the models."""
    _measure(sweep.behaviour(), options)


def probe(options: argparse.Namespace) -> None:
    """Run source and target on every pair, with and without adapters: what is known before a transfer."""
    probing.run(Results(options.results))


def adapters(options: argparse.Namespace) -> None:
    """Train LoRA-X adapters on the base, and measure them there and moved to its relatives."""
    constrained.measure_all(Results(constrained.folder(options.results)), RUNS)


def classifier(options: argparse.Namespace) -> None:
    """Train what judges pictures."""
    train_classifier(RUNS)


def judge(options: argparse.Namespace) -> None:
    """Train what judges the styles that differ to the eye, and the characters."""
    train_judges(RUNS)


def pictures(options: argparse.Namespace) -> None:
    """Draw with what the headline moves, and judge the pictures."""
    judging.run(options.results, options.sets, options.target)


def summary(options: argparse.Namespace) -> None:
    """Print every measured figure: gain recovery with its interval, difference to a copy, harm; as JSON also what was seen."""
    print_summary(options, records(Results(options.results / FOLDER)) if options.json else [])


def compare(options: argparse.Namespace) -> None:
    """Compare a rerun of the headline with the committed results; exit code 1 if it says anything else."""
    print_comparison(options, compared)


def pack_results(options: argparse.Namespace) -> None:
    """Compress the stored results, before they are committed."""
    pack(options.results)


def _measure(tasks: Iterator[sweep.Task], options: argparse.Namespace) -> None:
    sweep.run((task for task in tasks if options.target in (None, task[1])), Results(options.results))


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
    XL: xl_base,
    XL_PRUNED: xl_pruned,
    NEAR: another_finetune,
    FURTHER: another_finetune,
    **dict.fromkeys(LONGER, trained_on),
    "headline-bundle": headline_bundle,
    "loras": loras,
    "sweep": full_sweep,
    "headline": headline,
    "behaviour": behaviour,
    "adapters": adapters,
    "classifier": classifier,
    "judge": judge,
    "look": look,
    "blind": blind,
    "grids": grids,
    "seen": seen,
    "pictures": pictures,
    "probe": probe,
    "forecast": forecast,
    "summary": summary,
    "report": report,
    "compare": compare,
    "pack": pack_results,
}
MEASURING = (
    "sweep",
    "behaviour",
    "probe",
    "adapters",
    "forecast",
    "pictures",
    "look",
    "blind",
    "seen",
    "summary",
    "report",
    "pack",
)
STORED = dict.fromkeys(MEASURING, RESULTS) | {"headline": RERUN, "compare": RERUN}


def parser() -> argparse.ArgumentParser:
    """Every step with its own options."""
    whole = argparse.ArgumentParser(prog="lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = whole.add_subparsers(dest="step", metavar="STEP", required=True)
    for name, command in COMMANDS.items():
        step = steps.add_parser(name, help=command.__doc__, description=command.__doc__)
        if name in STEPS:
            step.add_argument("--steps", type=int, help=f"optimiser steps (default: {STEPS[name]})")
        if name in ("tokenizer", "vae", BASE, SCRATCH, XL):
            step.add_argument("--continue", action="store_true", dest="go_on", help="from the committed files")
        if name == "loras":
            step.add_argument("--only", default="*", metavar="PATTERN", help="those of this name, as in contrast-r4-*")
        if name in STORED:
            step.add_argument("--results", type=Path, default=STORED[name], metavar="DIR", help="default: %(default)s")
        if name in ("sweep", "headline", "behaviour", "look", "blind", "grids", "pictures"):
            of = tuple(OWN_ICONS) if name in ("look", "blind", "grids") else BASES
            step.add_argument("--target", choices=of, help="on this one alone")
        if name == "pictures":
            sets = tuple(judging.SETS)
            step.add_argument("--sets", nargs="+", choices=sets, default=sets, help="of these alone (default: both)")
        if name == "look":
            step.add_argument("--loras", nargs="+", choices=LOOKED_AT, metavar="LORA", help="of these alone: %(choices)s")
        if name in ("summary", "seen"):
            step.add_argument("--json", action="store_true", help="as a flat list of records")
    return whole


if __name__ == "__main__":
    options = parser().parse_args()
    bundle.unpack_loras()
    COMMANDS[options.step](options)
