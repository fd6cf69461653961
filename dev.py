"""Sets this repository up and runs it. Needs Python 3.10 or newer and nothing else.

    python dev.py demo [...]    move a LoRA between the bundled models; what follows goes to ``python -m lorax demo``
    python dev.py test [...]    lint, check types, test, and do what ui does; or lint, check types and give what follows to pytest
    python dev.py ui [...]      test the tab in a headless Chromium with gradio 3 and with gradio 4, and what keeps other web
                                pages out with what the standalone server installs; what follows goes to pytest, for the first two
    python dev.py webui [...]   test inside the real WebUI that LORAX_WEBUI_DIR names; what follows goes to pytest
    python dev.py pins [...]    test with the versions that hosts have: a1111, reforge, neo, or all; what follows goes to pytest

The first run makes .venv and installs what pyproject.toml lists; later runs install only after pyproject.toml has changed.
``ui`` has environments of its own: .venv-gradio3, .venv-gradio4, .venv-serve. It uses the system's Chromium or playwright's.
``pins`` has .venv-a1111, .venv-reforge and .venv-neo, each with the Python of its host.
Which build of torch arrives (CPU or CUDA) is for pip's configuration to say.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PARALLEL = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal")  # a process takes up to 2 GB; each uses one thread
GENTLY = ("nice",) if shutil.which("nice") else ()  # before a command that gives way to others
THREAD = threading.local()
T = TypeVar("T")
# tests/ui/NAME.txt says what the environment .venv-NAME has, beside an extra of pyproject.toml; and which tests run in it.
GRADIOS = {"gradio3": ("tab", "tests/ui"), "gradio4": ("tab", "tests/ui"), "serve": ("serve", "tests/ui/test_attack.py")}
PINS = {"a1111": "3.10", "reforge": "3.10", "neo": "3.13"}  # the host's Python; tests/pins/NAME.txt says what .venv-NAME has
SHARE = (  # what ``test`` runs with A1111's pins: the tests of what reads, keeps and writes files, and of what computes
    *("bad_adapters", "bad_files", "cache", "convert", "hashes", "index", "kept", "loraxfile", "outputs", "pickles", "staging"),
    "written",
    *("methods", "subspace", "transfer"),
)
IN_A_BROWSER = ("behaviour", "compare", "library", "page", "tab")  # of tests/webui
ROOM = 12  # GB on the disk for A1111's pins and for what else arrives with them; on Linux, torch comes with CUDA


def main(arguments: list[str]) -> None:
    commands = {"demo": demo, "test": test, "ui": ui, "webui": webui, "pins": pins}
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    if not arguments or arguments[0] not in commands:
        sys.exit(__doc__)
    name, *rest = arguments
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile torch and diffusers anew, for 5 to 15 seconds
    commands[name](rest)


def demo(arguments: list[str]) -> None:
    python = install(VENV, "demo")
    step("demo", python, "-m", "lorax", "demo", *arguments)


def test(arguments: list[str]) -> None:
    python = install(VENV, "test")
    if arguments:
        check(python, arguments)
        return
    with ThreadPoolExecutor() as beside:  # what is to be installed for the later steps arrives meanwhile
        installed = beside.submit(in_background, lambda: [with_gradio(name) for name in GRADIOS])
        pinned = beside.submit(in_background, with_pins_if_possible, "a1111")
        check(python, [])
        installed.result()
    with ThreadPoolExecutor() as beside:  # tests in a browser wait often, and the others compute meanwhile
        if python := pinned.result():
            share = [f"tests/test_{name}.py" for name in SHARE]
            beside_ui = beside.submit(in_background, test_with_pins, "a1111", python, share)
        ui([])
        if python:
            beside_ui.result()


def check(python: Path, arguments: list[str]) -> None:
    step("lint", python, "-m", "ruff", "check")
    step("format", python, "-m", "ruff", "format", "--check")
    step("rooms", python.with_name("lint-imports"))
    with ThreadPoolExecutor() as beside:  # types take one processor for a minute at first
        typed = beside.submit(in_background, step, "types", python, "-m", "mypy", "lorax")
        step("tests", python, "-m", "pytest", *PARALLEL, *arguments, OMP_NUM_THREADS="1")
        typed.result()


def ui(arguments: list[str]) -> None:
    # With arguments, which may select no test of a part, all tests of the tab alone.
    chosen = [name for name, (_, tests) in GRADIOS.items() if not arguments or tests == "tests/ui"]
    pythons = {name: with_gradio(name) for name in chosen}

    def walk(name: str) -> None:
        cache = f"--override-ini=cache_dir=.pytest_cache/{name}"
        step(f"tests with {name}", pythons[name], "-m", "pytest", cache, GRADIOS[name][1], *arguments)

    with ThreadPoolExecutor() as both:
        for ended in [both.submit(in_background, walk, name) for name in chosen]:
            ended.result()


def webui(arguments: list[str]) -> None:
    if not os.environ.get("LORAX_WEBUI_DIR"):
        sys.exit("LORAX_WEBUI_DIR is not set. It names a WebUI's folder, and LORAX_WEBUI_PYTHON its Python if it has no venv.")
    python = with_gradio("gradio4")
    if arguments:
        step("tests in the WebUI", python, "-m", "pytest", "tests/webui", *arguments)
        return
    pages, cache = [f"tests/webui/test_{name}.py" for name in IN_A_BROWSER], "--override-ini=cache_dir=.pytest_cache/prompts"
    rest = ["tests/webui", *(f"--ignore={page}" for page in pages)]
    with ThreadPoolExecutor() as beside:  # each has a WebUI of its own, which computes on one core
        drawn = beside.submit(in_background, step, "tests of prompts in the WebUI", *GENTLY, python, "-m", "pytest", cache, *rest)
        step("tests of the WebUI's page", python, "-m", "pytest", *pages)
        drawn.result()


def pins(arguments: list[str]) -> None:
    named = list(takewhile(PINS.__contains__, arguments))
    for name in named or PINS:
        base = find_python(PINS[name])
        if base:
            test_with_pins(name, with_pins(name, base), arguments[len(named) :])
            continue
        untested(name, f"there is no Python {PINS[name]} that can make environments")
        if named:
            sys.exit("Install it. It is looked for on PATH, and with py, uv and pyenv.")


def test_with_pins(name: str, python: Path, arguments: list[str]) -> None:
    cache = f"--override-ini=cache_dir=.pytest_cache/{name}"
    step(f"tests with the pins of {name}", *GENTLY, python, "-m", "pytest", cache, *PARALLEL, *arguments, OMP_NUM_THREADS="1")


def with_pins(name: str, base: Path) -> Path:
    return install(VENV.with_name(f".venv-{name}"), "pins", ROOT / "tests" / "pins" / f"{name}.txt", base)


def with_pins_if_possible(name: str) -> Path | None:
    """Install a host's pins; where they cannot be had, say so and go on."""
    base, free = find_python(PINS[name]), shutil.disk_usage(ROOT).free / 1e9
    if not base:
        why = f"there is no Python {PINS[name]} that can make environments"
    elif free < ROOM:
        why = f"they need {ROOM} GB on this disk, where {free:.0f} GB are free"
    else:
        try:
            return with_pins(name, base)
        except SystemExit:
            why = "they cannot be installed here; what pip says is above"
    untested(name, why)
    return None


def untested(name: str, why: str) -> None:
    print(f"The pins of {name} are not tested: {why}.", flush=True)


def find_python(version: str) -> Path | None:
    """Find a Python of this version that can make environments."""
    of_uv = ("uv", "run", "--no-project", "--no-python-downloads", "--python", version, "python")
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for command in ([sys.executable], [f"python{version}"], ["py", f"-{version}"], of_uv, *([path] for path in of_pyenv)):
        probe = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
        try:
            said = subprocess.run([*command, "-c", probe], capture_output=True, text=True).stdout
        except OSError:  # there is no such command
            continue
        found, _, path = said.strip().partition(" ")
        if found == version:
            return Path(path)
    return None


def with_gradio(name: str) -> Path:
    return install(VENV.with_name(f".venv-{name}"), GRADIOS[name][0], ROOT / "tests" / "ui" / f"{name}.txt")


def install(venv: Path, extra: str, requirements: Path | None = None, base: str | Path = sys.executable) -> Path:
    """Bring an environment up to date with one of pyproject.toml's extras and with ``requirements``; return its Python."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = venv / f"{extra}.stamp"
    lists = [ROOT / "pyproject.toml", *([requirements] if requirements else [])]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in lists)).hexdigest()
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not has_pip(python):
        step(f"make {venv.name}", base, "-m", "venv", "--clear", venv)
    more = ["--requirement", requirements] if requirements else []
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    step(f"install [{extra}] into {venv.name}", *pip, "--editable", f".[{extra}]", *more)
    stamp.write_text(wanted)
    return python


def has_pip(python: Path) -> bool:
    """Whether an environment is whole: where Debian's python3-venv is missing, ``venv`` leaves one without pip behind."""
    command: list[str | Path] = [python, "-m", "pip", "--version"]
    return python.exists() and subprocess.run(command, capture_output=True).returncode == 0


def step(title: str, *command: str | Path, **environment: str) -> None:
    """Run a command in the repository's root; end with its exit code if that is not 0."""
    held = getattr(THREAD, "in_background", False)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} if held else {}
    if not held:
        print(f"== {title}", flush=True)
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, **output)
    if held:
        print(f"== {title}\n{done.stdout}", end="", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def in_background(work: Callable[..., T], *arguments: object) -> T:
    """Do this in a thread of its own. What its steps print is shown when each has ended, so that no two are mixed."""
    THREAD.in_background = True
    return work(*arguments)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
