"""The part Library of the tab: layout and handlers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lorax.catalog import ListedFile
from lorax.hosts.base import Host
from lorax.ui import telling, words
from lorax.ui.choosing import Chooser
from lorax.ui.controls import Parts, wire
from lorax.ui.pages import Page
from lorax.ui.requests import Reply, Values
from lorax.ui.shelves import Shelf, Shelves
from lorax.workflow import FILTERS, SORTS, Group, Row, State, counted, selected

ALL = "All"
SORTED = {"verdict": "What can be done", "name": "Name", "source": "Source"}
FEW, MORE = 50, 200  # rows that are shown at first, and with each click on More
WIRE = "library_look"
INTRODUCTION = (
    "All your LoRAs, and what each is worth on the checkpoint that you want to use it on (above). This is a first look at a part "
    'of each file. "Look closely" also tells whether the checkpoint has some of a LoRA already, and the strength to use then. '
    "If it is not known on which checkpoint LoRAs were trained, tick them, choose that one as the source above, and say so below."
)
NONE_GAINS = "None of these gains by moving. To choose others, have their group be shown first."


def lay_out() -> Parts:
    """Lay the part out in the current context. It is closed at first, and nothing is looked for before it is open."""
    parts: Parts = {}
    with gr.Accordion("Library", open=False, elem_id="lorax_library"):
        gr.HTML(words.message(INTRODUCTION))
        with gr.Row():
            parts["library_only"] = _choice("Show", [ALL, *FILTERS.values()], "lorax_library_only")
            parts["library_search"] = gr.Textbox(
                label="Search",
                info="By name, checkpoint, family, rank or trigger words; press Enter",
                max_lines=1,
                elem_id="lorax_library_search",
            )
            parts["library_sort"] = _choice("Sort by", [SORTED[name] for name in SORTS], "lorax_library_sort")
        parts["library_status"] = gr.HTML(telling.looking(WIRE, 0, 0), elem_id="lorax_library_status")
        parts["library_table"] = gr.HTML(elem_id="lorax_library_table")
        with gr.Row():
            parts["library_all"] = gr.Button("Choose all of these", size="sm", elem_id="lorax_library_all")
            parts["library_none"] = gr.Button("Choose none", size="sm", elem_id="lorax_library_none")
            parts["library_told"] = gr.Button(
                "The chosen ones were trained on the source above", size="sm", elem_id="lorax_library_told"
            )
            parts["library_closely"] = gr.Button("Look closely at the chosen ones", size="sm", elem_id="lorax_library_closely")
            parts["library_more"] = gr.Button("Show more", size="sm", visible=False, elem_id="lorax_library_more")
            parts["library_move"] = gr.Button("Move the chosen ones", variant="primary", size="sm", elem_id="lorax_library_move")
        parts["library_chosen"] = wire("lorax_library_chosen", "[]")
    return parts


def _choice(label: str, names: list[str], elem_id: str) -> Any:
    return gr.Dropdown(names, value=names[0], label=label, elem_id=elem_id)


@dataclass(frozen=True)
class Asked:
    """What the part shows. ``chosen``: the names of LoRAs."""

    target: ListedFile | None
    only: str
    search: str
    sort: str
    chosen: set[str]

    @classmethod
    def of(cls, values: Values, host: Host) -> "Asked":
        only = next((name for name, title in FILTERS.items() if title == values["library_only"]), "")
        sort = next((name for name, title in SORTED.items() if title == values["library_sort"]), next(iter(SORTS)))
        target = host.bases().get(values["target"] or "")
        return cls(target, only, values["library_search"] or "", sort, set(json.loads(values["library_chosen"] or "[]")))


class Library:
    """The handlers of the part. ``move`` starts a batch of LoRAs, each from its own source."""

    def __init__(self, chooser: Chooser, shelves: Shelves, move: Callable[..., Reply]) -> None:
        self._chooser, self._host, self._shelves, self._move = chooser, chooser.host, shelves, move

    @staticmethod
    def stale() -> Reply:
        """Return the mark by which the page's script asks anew, if the part is open."""
        return {"library_status": telling.looking(WIRE, 0, 0)}

    def look(self, page: Page, mark: str, values: Values) -> Reply:
        """Show what is known for the target so far, and how far the rest is."""
        return self._shown(page, Asked.of(values, self._host))

    def select(self, page: Page, mark: str, values: Values) -> Reply:
        """Show the rows that are asked for now, from the first on."""
        page.rows = FEW
        return self._shown(page, Asked.of(values, self._host))

    def more(self, page: Page, mark: str, values: Values) -> Reply:
        page.rows += MORE
        return self._shown(page, Asked.of(values, self._host))

    def choose_all(self, page: Page, mark: str, values: Values) -> Reply:
        """Choose all that can be moved of the rows that are asked for, also of those further down.

        What was moved already and moved copies are left out; as long as no group is asked for, also what gains nothing by moving.
        """
        asked = Asked.of(values, self._host)
        rows = [row for row in self._rows(asked, self._shelf(asked)) if not row.is_copy and row.state is not State.DONE]
        wanted = [row for row in rows if row.can_move and (asked.only or row.group is Group.GAINS)]
        wanted += [row for row in rows if row.can_be_told and asked.only == row.group.value]
        reply = self._choose(page, asked, {row.adapter.name for row in wanted})
        said = {"library_status": words.message(NONE_GAINS)} if not wanted and not asked.only else {}
        return reply | said

    def choose_none(self, page: Page, mark: str, values: Values) -> Reply:
        return self._choose(page, Asked.of(values, self._host), set())

    def told(self, page: Page, mark: str, values: Values) -> Reply:
        """Remember the source that the chosen LoRAs were trained on, of those whose files name none that is there."""
        asked, source = Asked.of(values, self._host), values["source"]
        shelf = self._shelf(asked)
        told = [row.adapter for row in shelf.rows if row.adapter.name in asked.chosen and row.can_be_told] if shelf else []
        if not source:
            said = "No source is chosen. Choose the checkpoint that they were trained on above."
        elif not told:
            said = "No LoRA is chosen whose source is not known, or not on this disk."
        elif others := self._chooser.confirm(told, source):
            named = telling.listed([one.name for one in others])
            said = f"{named}: not noted. The file names another source, or is for another architecture than {source}."
        else:
            return self._choose(page, asked, set())
        return self._shown(page, asked) | {"library_status": words.message(said, "error")}

    def closely(self, page: Page, mark: str, values: Values) -> Reply:
        """Have the chosen LoRAs themselves be looked at."""
        asked = Asked.of(values, self._host)
        shelf = self._shelf(asked)
        chosen = [row.adapter for row in shelf.rows if row.adapter.name in asked.chosen] if shelf else []
        if shelf and asked.target and chosen and shelf.is_whole:
            self._shelves.look_closely(shelf, chosen, asked.target)
        return self._shown(page, asked)

    def move(self, page: Page, mark: str, values: Values) -> Reply:
        """Move the chosen LoRAs that are there. Files that exist stay, unless they are to be replaced."""
        chosen, adapters = Asked.of(values, self._host).chosen, self._host.adapters()
        page.moving = chosen  # those that a run which is stopped has not moved stay ticked
        return self._move(page, [adapters[name] for name in sorted(chosen) if name in adapters], values)

    def _choose(self, page: Page, asked: Asked, names: set[str]) -> Reply:
        shown = self._shown(page, Asked(asked.target, asked.only, asked.search, asked.sort, names))
        return shown | {"library_chosen": json.dumps(sorted(names))}

    def _shelf(self, asked: Asked) -> Shelf | None:
        return self._shelves.of(asked.target, self._chooser.revision) if asked.target else None

    @staticmethod
    def _rows(asked: Asked, shelf: Shelf | None) -> list[Row]:
        return selected(list(shelf.rows), asked.only, asked.search, asked.sort) if shelf else []

    def _shown(self, page: Page, asked: Asked) -> Reply:
        shelf = self._shelf(asked)
        rows = self._rows(asked, shelf)
        done = {row.adapter.name for row in shelf.rows if row.state is State.DONE} & page.moving if shelf else set()
        page.moving, chosen = page.moving - done, asked.chosen - done
        if shelf is None:
            status = words.message("Choose the checkpoint that you want to use them on.")
        elif shelf.error:
            status = words.message(shelf.error, "error")
        elif shelf.is_whole:
            status = words.message("; ".join(filter(None, [f"{len(shelf.rows)} LoRAs", counted(shelf.rows)])))
            status += telling.chosen([row.adapter for row in shelf.rows if row.adapter.name in chosen])
        else:
            status = telling.looking(WIRE, shelf.done, shelf.total, f"{shelf.text}: {{done}} of {{total}}")
        unticked = {"library_chosen": json.dumps(sorted(chosen))} if chosen != asked.chosen else {}
        return unticked | {
            "library_status": status,
            "library_table": telling.library(rows[: page.rows], len(rows), chosen),
            "library_more": gr.update(visible=len(rows) > page.rows),
        }
