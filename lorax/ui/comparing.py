"""The part Compare of the tab: layout and handlers."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from lorax.catalog import facts
from lorax.errors import Interrupted, LoraxError
from lorax.hosts.base import Host
from lorax.output import previews, store_preview, store_weight
from lorax.progress import Progress, in_words
from lorax.ui import words
from lorax.ui.comparison import MOST, OTHERS, Comparison, Pace, Sheet, moved_loras, sheet
from lorax.ui.controls import QUIET, js, line
from lorax.ui.kept import Kept
from lorax.ui.requests import Form, Values

TXT2IMG = ("prompt", "negative", "seeds", "steps", "sampler", "schedule", "cfg", "width", "height")  # in javascript/lorax.js too
SIDE_BY_SIDE = 4  # LoRAs of a batch that are compared, sent to a prompt or told of in detail, unless more are chosen
OWN = (
    "Pictures are drawn here by DDIM in the checkpoint's own size, and the prompt is taken as it stands, without weights or tags."
)


class Start(Protocol):
    """Connects a button with a job: ``work(progress, ask(values))`` returns the outputs' values and the status line's HTML."""

    def __call__(
        self,
        button: Any,
        work: Callable[[Progress, Comparison], list[Any]],
        form: Form,
        ask: Callable[[Values], Comparison],
        outputs: list[Any],
    ) -> Any: ...


def lay_out(host: Host, start: Start, last: Any) -> Any:
    """Lay the part out in the current context; return its accordion, which is closed until there is something to compare.

    ``last`` is the state of the last transfer: a mapping in which ``target`` names its target.
    """
    comparing = Comparing(host)
    with gr.Accordion("Compare", open=False, elem_id="lorax_comparison") as part:
        fields = _fields(host)
        with gr.Row():
            given = gr.Button("Take all from txt2img", size="sm", visible=host.has_prompt, elem_id="lorax_from_txt2img")
            preview = gr.Button("Draw a preview", size="sm", interactive=False, elem_id="lorax_draw_preview")
            compare = gr.Button("Compare", variant="primary", size="sm", interactive=False, elem_id="lorax_compare")
        told = gr.HTML(elem_id="lorax_compare_told")
        gallery = gr.Gallery(
            label="Pictures; click one to use it or its strength",
            columns=4,
            object_fit="contain",
            visible=False,
            elem_id="lorax_gallery",
        )
        drawn, chosen = gr.State({}), gr.State([])
        with gr.Column(visible=False, elem_id="lorax_picture") as panel:
            about = gr.HTML(elem_id="lorax_picture_about")
            with gr.Row():
                save = gr.Button("Save as preview", size="sm", elem_id="lorax_save_preview")
                swap = gr.Button("Replace the preview", size="sm", variant="stop", visible=False, elem_id="lorax_replace_preview")
                weigh = gr.Button("Use this strength", size="sm", elem_id="lorax_use_strength")
    form, shown = Form(last=last, **fields), [told, gallery, drawn, chosen, panel, about, save, swap, weigh]
    start(compare, comparing.compare, form, Comparison.of, shown)
    start(preview, comparing.preview, form, Comparison.of, shown)
    taken = [fields[name] for name in TXT2IMG]
    given.click(None, taken, taken, **js("(...values) => lorax.fromTxt2img(values)"))
    gallery.select(comparing.choose, [drawn], [chosen, panel, about, save, swap, weigh], **QUIET)
    for button, handler in ((save, comparing.save), (swap, comparing.swap), (weigh, comparing.weigh)):
        stored = button.click(handler, [drawn, chosen], [about, swap], **QUIET)
        stored.then(None, None, None, **js("() => lorax.refresh()"))
    for component in fields.values():
        changed = component.blur if isinstance(component, gr.Textbox) else component.change
        changed(lambda *values: comparing.told(form.read(values)), form.components, [told, preview, compare], **QUIET)
    return part


def _fields(host: Host) -> dict[str, Any]:
    """Make the components of a comparison, by name."""
    made: dict[str, Any] = {}
    with gr.Row():
        made["which"] = gr.Dropdown(
            [],
            multiselect=True,
            label="Moved LoRAs",
            info="Also of earlier days; several stand side by side",
            elem_id="lorax_which",
        )
        made["others"] = gr.CheckboxGroup(list(OTHERS), value=list(OTHERS), label="Beside those", elem_id="lorax_compare_others")
    with gr.Row():
        made["prompt"] = gr.Textbox(label="Prompt", lines=2, elem_id="lorax_prompt")
        made["negative"] = gr.Textbox(label="Negative prompt", lines=2, elem_id="lorax_compare_negative")
    with gr.Row():
        made["strengths"] = line("Strengths", "Such as 0.4, 0.6, 0.8, 1", "lorax_compare_strengths", value="1")
        made["seeds"] = line("Seeds", "Such as 7, 8, 9; -1 is a random one", "lorax_compare_seeds", value="7")
        made["steps"] = gr.Slider(1, 150, 20, step=1, label="Steps", elem_id="lorax_compare_steps")
        made["cfg"] = gr.Slider(1, 30, 7, step=0.5, label="CFG scale", elem_id="lorax_compare_cfg")
    samplers, schedules, size = list(host.samplers()), list(host.schedules()), host.picture_size
    with gr.Row(visible=bool(samplers or size)):
        made["sampler"] = _choice("Sampling method", samplers, "lorax_compare_sampler")
        made["schedule"] = _choice("Schedule type", schedules, "lorax_compare_schedule")
        made["width"] = gr.Number(size, label="Width", precision=0, elem_id="lorax_compare_width")
        made["height"] = gr.Number(size, label="Height", precision=0, elem_id="lorax_compare_height")
    if not samplers:
        gr.HTML(words.message(OWN))
    return made


def _choice(label: str, names: Sequence[str], elem_id: str) -> Any:
    return gr.Dropdown(list(names), value=next(iter(names), None), label=label, visible=bool(names), elem_id=elem_id)


def chosen_of(host: Host, written: Sequence[Path]) -> Any:
    """Return the update of the list of moved LoRAs in which those that were just written are chosen, of many the first."""
    for file in written:
        facts(file)
    found, first = moved_loras(host), written[:SIDE_BY_SIDE]
    return gr.update(choices=list(found), value=[label for label, (model, _) in found.items() if model.path in first])


class Comparing:
    """The handlers of one page of a host."""

    def __init__(self, host: Host) -> None:
        self._host, self._pace, self._kept = host, Pace(), Kept()

    def told(self, values: Values) -> list[Any]:
        """Return what ``tell`` says, and the updates of the buttons that draw, which need something to be drawn."""
        return [self.tell(values), *2 * [gr.update(interactive=bool(values["which"]))]]

    def tell(self, values: Values) -> str:
        """Say how many pictures the choices make and how long they take, or what is wrong with the choices."""
        if not values["which"]:
            return ""
        try:
            asked = Comparison.of(values)
            planned = sheet(asked, self._host)
        except (LoraxError, OSError) as error:
            return words.message(str(error), "warning")
        return self._count(asked, planned)

    def _count(self, asked: Comparison, planned: Sheet) -> str:
        seconds = self._pace.expected(planned.shots, asked.work)
        long = f", about {in_words(seconds)}" if seconds else ". How long they take is told once the first ones are drawn"
        drawn = len(planned.shots)
        count = f"{drawn} picture{'s' * (drawn != 1)} ({MOST} at most){long}."
        return "".join(words.message(text, kind) for text, kind in [(count, "note"), *((w, "warning") for w in planned.warnings)])

    def compare(self, progress: Progress, asked: Comparison) -> list[Any]:
        """Draw the pictures; return values for the outputs: their number, the gallery, and what else the page shows."""
        told, gallery, drawn, status = self._drawn(progress, asked)
        return [told, gallery, drawn, [], gr.update(visible=False), "", *[gr.update()] * 3, status]

    def preview(self, progress: Progress, asked: Comparison) -> list[Any]:
        """Draw each moved LoRA alone, and save the pictures as previews if there are none; return the same as ``compare``."""
        alone = replace(asked, others=[], seeds=asked.seeds[:1], strengths=[max(asked.strengths)])
        _, gallery, drawn, status = self._drawn(progress, alone)
        chosen = list(range(len(drawn["pictures"])))
        about, swap = self.save(drawn, chosen)
        return [
            gr.update(),
            gallery,
            drawn,
            chosen,
            gr.update(visible=True),
            about,
            gr.update(visible=False),
            swap,
            *self._weight(drawn, []),
            status,
        ]

    def choose(self, drawn: dict[str, Any], event: gr.SelectData) -> list[Any]:
        """Show what can be done with the picture that was clicked."""
        picture = drawn["pictures"][event.index]
        is_moved = picture["lora"] is not None
        about = words.message(
            picture["title"] if is_moved else f"{picture['title']}: choose a picture with a moved LoRA to use it."
        )
        chosen = [event.index] if is_moved else []
        return [
            chosen,
            gr.update(visible=True),
            about,
            gr.update(visible=is_moved),
            gr.update(visible=False),
            *self._weight(drawn, chosen),
        ]

    def _weight(self, drawn: dict[str, Any], chosen: list[int]) -> list[Any]:
        strengths = [drawn["pictures"][number]["strength"] for number in chosen]
        if not strengths:
            return [gr.update(visible=False)]
        return [gr.update(visible=True, value=f"Use this strength ({strengths[0]:g})")]

    def save(self, drawn: dict[str, Any], chosen: list[int], overwrite: bool = False) -> list[Any]:
        """Save the chosen pictures as previews; return what became of them, and whether to offer to replace one."""
        told, refused = [], False
        for number in chosen:
            try:
                lora = _lora(drawn, number)
                if not overwrite and (there := previews(lora)):
                    refused = True
                    told.append(words.message(f"{lora.stem} has a preview already: {there[0].name}. Replace it?", "warning"))
                    continue
                written = store_preview(lora, self._kept.encoder(drawn["token"], number), overwrite)
                told.append(words.message(f"Saved as preview: {', '.join(path.name for path in written)}", "done"))
            except (LoraxError, OSError) as error:
                told.append(words.message(str(error), "error"))
        return ["".join(told), gr.update(visible=refused)]

    def swap(self, drawn: dict[str, Any], chosen: list[int]) -> list[Any]:
        """Save the chosen pictures instead of the previews that are there."""
        return self.save(drawn, chosen, overwrite=True)

    def weigh(self, drawn: dict[str, Any], chosen: list[int]) -> list[Any]:
        """Store the strength of the chosen picture as the preferred weight on the LoRA's card."""
        told = []
        for number in chosen:
            try:
                lora, strength = _lora(drawn, number), drawn["pictures"][number]["strength"]
                store_weight(lora, strength)
                told.append(words.message(f"{lora.stem}: its card's preferred weight is {strength:g} now.", "done"))
            except (LoraxError, OSError) as error:
                told.append(words.message(str(error), "error"))
        return ["".join(told), gr.update(visible=False)]

    def _drawn(self, progress: Progress, asked: Comparison) -> tuple[str, Any, dict[str, Any], str]:
        """Draw; return the number of pictures in words, the gallery's update, what is known of the pictures, and the status."""
        planned, moved = sheet(asked, self._host), {model.path for model, _ in moved_loras(self._host).values()}
        found, comments, stopped = self._draw(progress, asked, planned)
        numbers = sorted(found)
        shots = [planned.shots[number] for number in numbers]
        known = [
            {
                "title": shot.title,
                "strength": shot.strength,
                "lora": str(shot.adapter.path) if shot.adapter and shot.adapter.path in moved else None,
            }
            for shot in shots
        ]
        captioned = [(found[number], planned.shots[number].title) for number in numbers]
        gallery = gr.update(value=captioned, visible=bool(captioned), columns=planned.columns)
        done = f"Stopped after {len(shots)} of {len(planned.shots)} pictures." if stopped else "Done."
        warnings = [*comments, *([done] if stopped else [])]
        status = "".join(words.message(text, "warning") for text in warnings) or words.message(done, "done")
        kept = {"token": self._kept.keep([found[number] for number in numbers]), "pictures": known}
        return self._count(asked, planned), gallery, kept, status

    def _draw(self, progress: Progress, asked: Comparison, planned: Sheet) -> tuple[dict[int, Any], list[str], bool]:
        """Draw; return the pictures by number, the host's comments, and whether the user stopped."""
        order, found, comments = planned.order, dict[int, Any](), list[str]()
        took: dict[str, list[float]] = defaultdict(list)

        def telling(done: int, total: int, text: str) -> None:
            last = next(reversed(took.values()))[-1] if took else None
            left = f", about {in_words(last * (total - done))} left" if last and done < total else ""
            progress(done, total, f"{text}: picture {min(done + 1, total)} of {total}{left}" if text else text)

        before, stopped = time.monotonic(), True
        with suppress(Interrupted):
            shots = [planned.shots[number] for number in order]
            for number, drawn in zip(order, self._host.pictures(shots, asked.drawing, telling), strict=True):
                shot, found[number] = planned.shots[number], drawn.picture
                comments += [f"{shot.title}: {comment}" for comment in drawn.comments]
                took[shot.base.name].append(time.monotonic() - before)
                before = time.monotonic()
            stopped = False
        self._pace.learn(took, asked.work)
        return found, comments, stopped


def _lora(drawn: dict[str, Any], number: int) -> Path:
    path = Path(drawn["pictures"][number]["lora"])
    if not path.is_file():
        raise LoraxError(f"{path}: not there any more.")
    return path
