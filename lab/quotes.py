"""Parts of hand-written pages between two markers, which a step of the lab replaces, so that they cannot say anything else."""

from __future__ import annotations

from pathlib import Path

END = "<!-- end -->"


def begin(step: str) -> str:
    return f"<!-- from python -m lab {step}: begin -->"


def quoted(page: Path, step: str) -> str:
    """What stands between the markers."""
    return page.read_text(encoding="utf-8").partition(begin(step))[2].partition(END)[0].strip()


def quote(page: Path, step: str, text: str) -> None:
    """Replace what stands between the markers."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin(step))
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{begin(step)}\n\n{text}\n\n{END}{after}", encoding="utf-8")
