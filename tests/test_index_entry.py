"""The entry for the index of extensions keeps the index's rules, by which its pull requests are checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
ENTRY = DOCS / "extensions" / "sd-webui-lora-x.json"
TAGS = {  # of the index's template, but "ads" and "localization", which would not be true
    *("script", "tab", "dropdown", "training", "models", "UI related", "prompting", "editing", "manipulations", "online"),
    *("animation", "query", "science", "extras"),
}


def test_the_entry_for_the_index_keeps_its_rules() -> None:
    entry = json.loads(ENTRY.read_text(encoding="utf-8"))
    assert set(entry) == {"name", "url", "description", "tags"}, "the index adds the date by itself"
    assert entry["name"] == "LoRA-X"
    assert re.fullmatch(r"https://github\.com/[^ /]+/sd-webui-lora-x\.git", entry["url"])
    assert 0 < len(entry["description"]) < 150
    assert entry["tags"]
    assert set(entry["tags"]) <= TAGS


def test_the_docs_link_the_entry() -> None:
    (link,) = re.findall(r"\]\(([^)]*\.json)\)", (DOCS / "webui.md").read_text(encoding="utf-8"))
    assert (DOCS / link).resolve() == ENTRY
