"""What README and methods page quote of the findings, between two markers, so that they cannot say anything else."""

from __future__ import annotations

from pathlib import Path

from lab.measure import SEEDS
from lab.report import prose
from lab.report.cells import Cell, Cells, Pair
from lab.report.claims import Verdict, listed, verdict
from lab.report.tables import markdown, number
from lab.stats import Interval
from lab.variants import AUTO, BY_NAME, COPY, LORAX
from lab.zoo import BASE, CROSSING, FINETUNE, HEADLINE_RANK, PRUNED, SCRATCH, STYLES, XL, XL_PRUNED, are_related
from lorax.methods import BRIDGE, REFINE

BEGIN, END = "<!-- from python -m lab report: begin -->", "<!-- end -->"
RUN = {
    BRIDGE: "fits each layer to what the source's layer does",
    REFINE: "trains the target on what the source draws with the LoRA",
}
QUOTED = (BY_NAME, COPY, LORAX, "prolora", "prolora-cross", AUTO)
TOLD = {  # in the README: what an artist calls such a pair
    (BASE, FINETUNE): "close relatives: one is a fine-tune",
    (BASE, PRUNED): "slimmed down, as small-sd from SD 1.5",
    (XL, XL_PRUNED): "slimmed down, as SSD-1B from SDXL",
    (BASE, SCRATCH): "not related: trained apart",
    CROSSING: "SD 1.x to SDXL",
}
CALLED = {(BASE, FINETUNE): "a fine-tune", (BASE, PRUNED): "small-sd", (XL, XL_PRUNED): "SSD-1B", (BASE, SCRATCH): "strangers"}
BUTTONS = {"the original, at strength 1": BY_NAME, "Move": AUTO, "Refine": REFINE, "Bridge": BRIDGE}
DURATIONS = ("how long at full size", "no time", "seconds to minutes", "3 minutes to an hour\\*", "minutes to an hour\\*")


def write(cells: Cells, readme: Path, methods: Path) -> None:
    """Replace what stands between the markers: what to expect in the README, how the methods compare on their page."""
    for page, text in ((readme, what_to_expect(cells)), (methods, _comparison(cells))):
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def what_to_expect(cells: Cells) -> str:
    """A row for each kind of pair, a column for each button of the tab."""
    rows = [
        [told, *(_share(cells, pair, variant) for variant in BUTTONS.values())]
        for pair, told in TOLD.items()
        if cells.pooled(*pair, AUTO, HEADLINE_RANK) or cells.pooled(*pair, REFINE, HEADLINE_RANK)
    ]
    return f"{markdown(('your two checkpoints', *BUTTONS), [*rows, DURATIONS])}\n\n{_of_the_style(cells)}"


def _of_the_style(cells: Cells) -> str:
    """The most that is certain of the style's own, for each kind of pair: what the table shows is not all style."""
    most: dict[str, list[str]] = {}
    for pair, called in CALLED.items():
        found = {
            button: specific
            for button, variant in BUTTONS.items()
            if (cell := cells.pooled(*pair, variant, HEADLINE_RANK)) and (specific := cells.specific(cell))
        }
        if certain := {button: specific for button, specific in found.items() if specific.is_above_zero}:
            best = max(certain, key=lambda button: certain[button].mean)
            most.setdefault(best, []).append(f"{_in_percent(certain[best])} to {called}")
    told = "".join(f"*{button}* brings {listed(shares)}; " for button, shares in most.items())
    rest = "elsewhere nothing is certain" if most else "nothing is certain"
    return f"Less what other styles' LoRAs gain too, {told}{rest}."


def _share(cells: Cells, pair: Pair, variant: str) -> str:
    cell = cells.pooled(*pair, variant, HEADLINE_RANK)
    recovery = cells.recovery(cell) if cell else None
    if pair == CROSSING and variant == BY_NAME:
        return "does not fit"
    if variant == AUTO and (pair == CROSSING or (recovery and verdict(recovery) is Verdict.SAME)):
        return "declines"  # of all that it does, this alone changes nothing
    return _in_percent(recovery) if recovery else "not measured"


def _in_percent(recovery: Interval) -> str:
    mean, low, high = (round(100 * value) for value in (recovery.mean, recovery.low, recovery.high))
    return f"{mean}% ({low} to {high})"


def _comparison(cells: Cells) -> str:
    pairs = cells.headline_pairs()
    found = {pair: {cell.variant: cell for cell in cells.headline(pair)} for pair in pairs}
    rows = [
        [f"`{variant}`" if variant != BY_NAME else variant, *(_figure(cells, found[pair].get(variant)) for pair in pairs)]
        for variant in QUOTED
    ]
    heads = [f"{prose.called(pair)}{'' if are_related(*pair) else ' (unrelated)'}" for pair in pairs]
    how = (
        f"{len(STYLES)} styles that no base has seen, LoRAs of rank {HEADLINE_RANK}, {len(SEEDS)} noise seeds, strength 1; in "
        "brackets 95 % intervals over styles, captions and seeds."
    )
    bullets = "\n".join(f"- {sentence}" for sentence in prose.best_methods(cells))
    return f"{how}\n\n{markdown(('', *heads), rows)}\n\n{bullets}{_run(cells)}"


def _run(cells: Cells) -> str:
    """Last bullets on what runs the models, where that was measured."""
    pairs, bullets = [*cells.headline_pairs(), CROSSING], ""
    for method, words in RUN.items():
        found = {pair: cell for pair in pairs if (cell := cells.pooled(*pair, method, HEADLINE_RANK))}
        figures = "; ".join(f"{prose.called(pair)} {number(cells.recovery(cell))}" for pair, cell in found.items())
        bullets += f"\n- `{method}`, which {words}: {figures}." if found else ""
    return bullets


def _figure(cells: Cells, cell: Cell | None) -> str:
    return number(cells.recovery(cell) if cell else None)
