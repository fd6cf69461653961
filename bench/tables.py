"""What ``bench.behaviour`` has measured and counted, as tables: what must be in memory at a time, and how long all takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bench.counting import Idles
from bench.stages import Stage
from lorax.methods import REFINE, Kinship, bridge
from lorax.models import Operations
from lorax.options import Running
from lorax.transfer import work

CARDS = {"RTX 3060 12 GB": 25.6e12, "RTX 4070 12 GB": 58.3e12}  # operations a second, bfloat16 summed in float32, not sparse
REACHED = 0.4  # of them
FLOAT32 = {"decoded": 0.5, "encoded": 0.5}  # of them, where the autoencoder computes
STATE = {"factors": 1, "their gradient": 1, "AdamW's moments": 2, "averaged": 1}  # in sizes of the factors
TITLES = {"sd": "SD 1.5", "xl": "SDXL"}
ACTIONS = {  # what is counted -> what is measured
    "prompt": "encode a prompt",
    "evaluation": "evaluate with the LoRA",
    "training": "train on a picture",
    "decoded": "decode a picture",
    "encoded": "encode a picture",
}


def memory(found: Mapping[str, Stage], methods: Mapping[str, Idles]) -> Iterator[str]:
    """At a time: weights and factors are counted in bytes; what is computed with is what the measured process took for it."""
    yield "| at a time | GB |"
    yield "| --- | --- |"
    for name, title in TITLES.items():
        sizes = found[name].sizes
        for method, idles in methods.items():
            for kind in ("evaluation", "training"):
                if not idles.counts[name][kind]:
                    continue
                parts = {"UNet": sizes["UNet"]}
                if kind == "training":
                    parts |= {part: times * sizes["factors"] for part, times in STATE.items()}
                else:
                    parts |= {"text encoders": sizes["text encoders"], "factors": sizes["factors"]}
                at_a_time = idles.largest[name][kind]
                parts[f"{at_a_time} x computing"] = at_a_time * _beyond(found[name], ACTIONS[kind])
                yield _sum(f"{method}: {title}, {ACTIONS[kind]}", parts)
        for action in ("decode a picture", "encode a picture"):
            if action in found[name].readings:
                parts = {"autoencoder": sizes["autoencoder"], "computing": _beyond(found[name], action)}
                yield _sum(f"{title}, {action}", parts)
    yield f"| bridge: what it keeps of the source, in main memory | at most {bridge.SOURCE_BYTES / 1e9:.2f} |\n"


def times(found: Mapping[str, Stage], method: str, idles: Idles) -> Iterator[str]:
    """Of a method, of which no training stops early."""
    cards = " | ".join(f"minutes on {card}, arithmetic" for card in CARDS)
    yield f"| {method} | times | seconds of one | hours here | TFLOP of one | {cards} |"
    yield "| --- " * (5 + len(CARDS)) + "|"
    whole, on_cards = 0.0, Counter[str]()
    for name, title in TITLES.items():
        for kind, action in ACTIONS.items():
            if not (count := idles.counts[name][kind]):
                continue
            seconds, operations = found[name].readings[action].seconds, found[name].operations.get(kind, 0)
            whole += count * seconds
            share = REACHED * FLOAT32.get(kind, 1)
            minutes = {card: count * operations / (share * speed) / 60 for card, speed in CARDS.items()}
            on_cards.update(minutes)
            figures = f"{seconds:.1f} | {count * seconds / 3600:.1f} | {operations / 1e12:.2f}"
            yield f"| {title}: {action} | {count} | {figures} | {_cells(minutes)} |"
    if method == "bridge":
        one, every = found["xl"].operations["solved"], found["xl"].operations["solving"]
        seconds = found["xl"].readings["bridge: solve a layer"].seconds * every / one
        whole += seconds
        yield f"| all layers solved, by a processor | 1 | {seconds:.0f} | {seconds / 3600:.1f} | {every / 1e12:.2f} | | |"
    yield f"| together | | | {whole / 3600:.1f} | | {_cells(on_cards)} |\n"


def within(found: Mapping[str, Stage], sizes: Sequence[int], asked: Running) -> Iterator[str]:
    """Of refine between two checkpoints of one structure; a backward pass of SD 1.5 is taken for as dear as SDXL's is."""
    cards = " | ".join(f"minutes on {card}, arithmetic" for card in CARDS)
    yield f"| refine within a family | evaluations | noisy pictures trained on | {cards} |"
    yield "| --- " * (3 + len(CARDS)) + "|"
    dearer = found["xl"].operations["training"] / found["xl"].operations["evaluation"]
    for (name, title), size in zip(TITLES.items(), sizes, strict=True):
        both = (Operations(size, 0, 0, 0, 0, {}, []),) * 2
        done = [stage.work for stage in work.stages(REFINE, asked, both, of_text=False, kinship=Kinship.STRANGERS)]
        trained = sum(one.trained for one in done)
        evaluated = sum(one.predicted for one in done) - trained
        operations = (evaluated + dearer * trained) * found[name].operations["evaluation"]
        minutes = {card: operations / (REACHED * speed) / 60 for card, speed in CARDS.items()}
        yield f"| {title} | {evaluated} | {trained} | {_cells(minutes)} |"
    yield ""


def _cells(minutes: Mapping[str, float]) -> str:
    return " | ".join(f"{minutes[card]:.1f}" for card in CARDS)


def _beyond(stage: Stage, action: str) -> int:
    return stage.readings[action].peak - stage.readings[action].before


def _sum(title: str, parts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{part} {size / 1e9:.2f}" for part, size in parts.items())
    return f"| {title}: {listed} | {sum(parts.values()) / 1e9:.2f} |"
