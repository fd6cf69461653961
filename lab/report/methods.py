"""What docs/methods.md quotes of the findings: how the methods compare by their losses."""

from __future__ import annotations

from lab.measure import SEEDS
from lab.report import prose
from lab.report.cells import Cell, Cells
from lab.report.tables import markdown, number
from lab.variants import AUTO, BY_NAME, COPY, LORAX
from lab.zoo import CROSSING, HEADLINE_RANK, STYLES, are_related
from lorax.methods import BRIDGE, REFINE

RUN = {
    BRIDGE: "fits each layer to what the source's layer does",
    REFINE: "trains the target on what the source draws and predicts with the LoRA",
}
QUOTED = (BY_NAME, COPY, LORAX, "prolora", "prolora-cross", AUTO)


def comparison(cells: Cells) -> str:
    pairs = cells.headline_pairs()
    found = {pair: {cell.variant: cell for cell in cells.headline(pair)} for pair in pairs}
    rows = [
        [f"`{variant}`" if variant != BY_NAME else variant, *(_figure(cells, found[pair].get(variant)) for pair in pairs)]
        for variant in QUOTED
    ]
    heads = [f"{prose.called(pair)}{'' if are_related(*pair) else ' (unrelated)'}" for pair in pairs]
    how = (
        f"{len(STYLES)} styles that no base has seen, LoRAs of rank {HEADLINE_RANK}, {len(SEEDS)} noise seeds, strength 1; in "
        "brackets 95 % intervals over styles, captions and seeds. After the semicolon is the specific part: 1 is "
        "the native LoRA, and 0 is what other styles' LoRAs of the same norm gain there."
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
    """The recovery with its interval, then the specific one."""
    if cell is None:
        return number(None)
    specific = cells.specific(cell)
    return number(cells.recovery(cell)) + (f"; {specific.mean:.2f}" if specific else "")
