"""A folder of LoRAs: what it takes to know them, beside a bare look at their headers.

``python -m bench library`` writes LoRAs with real headers, of SDXL and SD 1.5, by two trainers, of seven ranks. Each has metadata
of its own; of their tensors nothing is on the disk. Each figure is that of a process of its own, in seconds of the processor.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.lines import Line, at_most

RANKS = (4, 8, 16, 24, 32, 64, 128)
TAGS = 400  # in the metadata of a LoRA
ROOT = Path(__file__).resolve().parents[1]


def headers() -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors of LoRAs as people have them."""
    from tests import structure, xl

    layers = xl.layers(xl.FULL)
    trained = xl.trained(xl.FULL)
    inside = (".transformer_blocks.", ".proj_")
    old = [one for one in structure.FULL.unet() if one.is_layer and any(part in one.ldm for part in inside)]
    names = [
        [(xl.spelled(layer, xl.FULL, "kohya"), layers[layer].shape) for layer in trained],
        [(xl.spelled(layer, xl.FULL, "kohya"), layers[layer].shape) for layer in trained if layer.startswith("unet.")],
        [("lora_unet_" + one.diffusers.removesuffix(".weight").replace(".", "_"), one.shape) for one in old],
    ]
    for rank in RANKS:
        for named in names:
            yield {
                f"{name}.{part}": shape
                for name, (m, n, *kernel) in named
                for part, shape in (
                    ("alpha", ()),
                    ("lora_down.weight", (rank, n, *kernel)),
                    ("lora_up.weight", (m, rank, *(1 for _ in kernel))),
                )
            }
        peft = [(xl.spelled(layer, xl.FULL, "peft"), layers[layer].shape) for layer in trained if layer.startswith("unet.")]
        yield {
            f"{name}.{part}": shape
            for name, (m, n, *_) in peft
            for part, shape in (("lora_A.weight", (rank, n)), ("lora_B.weight", (m, rank)))
        }


def write(folder: Path, count: int) -> None:
    kinds = []
    for tensors in headers():
        made, end = {}, 0
        for key, shape in tensors.items():
            begin, end = end, end + 2 * math.prod(shape)
            made[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
        kinds.append((json.dumps(made, separators=(",", ":"))[1:], end))
    for number in range(count):
        rest, size = kinds[number % len(kinds)]
        tags = {f"a tag of {number} and {tag}": tag for tag in range(TAGS)}
        metadata = {
            "ss_sd_model_name": f"base-{number % 30}.safetensors",
            "ss_output_name": f"style {number}",
            "ss_tag_frequency": json.dumps({"10_style": tags}),
        }
        header = f'{{"__metadata__":{json.dumps(metadata)},{rest}'.encode()
        header += b" " * (-len(header) % 8)
        with (folder / f"style-{number:05}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)


Work = Callable[[], None]


def scan(folder: Path, cache: Path) -> Work:
    """A bare look: what each header says, parsed."""

    def work() -> None:
        for path in sorted(folder.iterdir()):
            with path.open("rb") as file:
                json.loads(file.read(int.from_bytes(file.read(8), "little")))

    return work


def look(folder: Path, cache: Path) -> Work:
    """What the tab does when somebody looks at it: the index of ``cache`` is used and filled."""
    from lorax import catalog

    catalog.keep_in(cache)

    def work() -> None:
        paths, survey = sorted(folder.iterdir()), catalog.Survey()
        survey.begin(paths)
        while survey.is_running:
            time.sleep(0.01)
        known = [catalog.seen(path) for path in paths]
        assert all(one and not one.facts.problem and one.facts.rank for one in known)

    return work


def page(folder: Path, cache: Path) -> Work:
    """What the tab does when the page is loaded, and nobody looks at the tab."""
    from lorax.catalog import ListedFile
    from lorax.hosts.standalone import Standalone
    from lorax.ui.choosing import Chooser

    host = Standalone(cache)  # which has no models
    found = {path.stem: ListedFile(path.stem, path) for path in folder.iterdir()}
    host.adapters = lambda: found  # type: ignore[method-assign]

    def work() -> None:
        Chooser(host).lists({"adapters": [], "also": [], "source": None, "target": None})

    return work


ACTIONS: dict[str, Callable[[Path, Path], Work]] = {"scan": scan, "look": look, "page": page}


def measured(action: str, folder: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.library", action, str(folder), str(cache)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def lines(folder: Path, count: int) -> Iterator[Line]:
    models, cache = folder / "models", folder / "cache"
    models.mkdir()
    cache.mkdir()
    write(models, count)
    bare = measured("scan", models, cache)
    yield Line(f"a bare look at {count} headers", bare["seconds"], "s")
    first = measured("look", models, cache)
    each = f"{1000 * first['seconds'] / count:.2f} ms each"
    yield at_most("first look, relative to that", first["seconds"] / bare["seconds"], 3, "times", each)
    second = measured("look", models, cache)
    yield at_most("second start", second["seconds"], max(1.0, count / 5000), "s")
    yield at_most("memory of the first look", first["memory"] / 1e6, 150, "MB")
    size = sum(file.stat().st_size for file in cache.iterdir())
    yield Line("the index", size / 1e6, "MB", note=f"{size / count:.0f} bytes each")
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError:
        return
    shown = measured("page", models, cache)
    yield at_most(
        "page open, relative to the bare look", shown["seconds"] / bare["seconds"], 0.05, "times", f"{shown['seconds']:.3f} s"
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="bench library", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=5000, help="LoRAs, of 0.3 MB each on the disk (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the lines as JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found: list[Any] = []
        for line in lines(Path(folder), options.files):
            found.append(vars(line))
            if not options.json:
                print(line, flush=True)
    if options.json:
        print(json.dumps(found, indent=2))


def _measure(action: str, folder: Path, cache: Path) -> None:
    """Print the seconds of the processor that the action takes in this process, and the memory that it adds."""
    from bench.measure import anonymous

    work = ACTIONS[action](folder, cache)
    gc.freeze()  # what torch holds would be searched through again and again while headers are parsed
    before, begin = anonymous(), time.process_time()
    work()
    print(json.dumps({"seconds": time.process_time() - begin, "memory": anonymous() - before}))


if __name__ == "__main__":
    _measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
