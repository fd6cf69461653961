"""``python -m lab STEP``: train the small models, bundle them, measure transfers. Every step is seeded and resumable.

Steps in order: tokenizer, vae, base, finetune, pruned, bundle; from what they commit: scratch, xl, xl-pruned, headline-bundle,
near, further, scratch-long, xl-long, scratch-again, loras, classifier; then sweep, behaviour, adapters, probe, forecast,
pictures, summary, report and pack, or headline and compare.
By pictures, of LoRAs that are seen at a glance: loras, judge, look, blind, grids and seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from lab import bases, bundle, constrained, data, judging, lora, probing, sweep
from lab.bundle import runner_of
from lab.classifier import train_classifier
from lab.eye import FOLDER, blind, compared, grids, look, records, redraw, seen, train_judges
from lab.forecast import forecast
from lab.models import Captioner
from lab.paths import RERUN, RESULTS, RUNS
from lab.report import print_comparison, print_summary, report
from lab.results import Results, pack
from lab.side_by_side import side_by_side
from lab.zoo import ADAPTERS, BASES, HEADLINE_PAIRS, LOOKED_AT, OWN_ICONS, STYLES


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


COMMANDS = {
    **bases.COMMANDS,
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
        if name in bases.STEPS:
            step.add_argument("--steps", type=int, help=f"optimiser steps (default: {bases.STEPS[name]})")
        if name in bases.CONTINUED:
            step.add_argument("--continue", action="store_true", dest="go_on", help="from what is there")
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
