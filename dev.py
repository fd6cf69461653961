"""Sets this repository up and runs it. Needs Python 3.10 or newer and nothing else.

    python dev.py demo [...]    move a LoRA between the bundled models; what follows goes to ``python -m lorax demo``
    python dev.py test [...]    lint, check types, test, and do what ui does; or lint, check types and give what follows to pytest
    python dev.py ui [...]      test the tab in a headless Chromium with gradio 3 and with gradio 4, and what keeps other web
                                pages out with what the standalone server installs; what follows goes to pytest, for the first two
    python dev.py webui [...]   test inside the real WebUI that LORAX_WEBUI_DIR names; what follows goes to pytest

The first run makes .venv and installs what pyproject.toml lists; later runs install only after pyproject.toml has changed.
``ui`` has environments of its own: .venv-gradio3, .venv-gradio4, .venv-serve. It uses the system's Chromium or playwright's.
Which build of torch arrives (CPU or CUDA) is for pip's configuration to say.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PARALLEL = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal")  # a process takes up to 2 GB; each uses one thread
THREAD = threading.local()
# tests/ui/NAME.txt says what the environment .venv-NAME has, beside an extra of pyproject.toml; and which tests run in it.
GRADIOS = {"gradio3": ("tab", "tests/ui"), "gradio4": ("tab", "tests/ui"), "serve": ("serve", "tests/ui/test_attack.py")}


def main(arguments: list[str]) -> None:
    commands = {"demo": demo, "test": test, "ui": ui, "webui": webui}
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    if not arguments or arguments[0] not in commands:
        sys.exit(__doc__)
    name, *rest = arguments
    commands[name](rest)


def demo(arguments: list[str]) -> None:
    python = install(VENV, "demo")
    step("demo", python, "-m", "lorax", "demo", *arguments)


def test(arguments: list[str]) -> None:
    python = install(VENV, "test")
    if arguments:
        check(python, arguments)
        return
    with ThreadPoolExecutor() as beside:  # what is to be installed for ui arrives meanwhile
        installed = beside.submit(in_background, lambda: [with_gradio(name) for name in GRADIOS])
        check(python, [])
        installed.result()
    ui([])


def check(python: Path, arguments: list[str]) -> None:
    step("lint", python, "-m", "ruff", "check")
    step("format", python, "-m", "ruff", "format", "--check")
    step("types", python, "-m", "mypy", "lorax")
    step("rooms", python.with_name("lint-imports"))
    step("tests", python, "-m", "pytest", *PARALLEL, *arguments, OMP_NUM_THREADS="1")


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
        sys.exit("LORAX_WEBUI_DIR is not set. It names the folder of a WebUI v1.10.1 with its venv.")
    step("tests in the WebUI", with_gradio("gradio4"), "-m", "pytest", "tests/webui", *arguments)


def with_gradio(name: str) -> Path:
    return install(VENV.with_name(f".venv-{name}"), GRADIOS[name][0], ROOT / "tests" / "ui" / f"{name}.txt")


def install(venv: Path, extra: str, requirements: Path | None = None) -> Path:
    """Bring an environment up to date with one of pyproject.toml's extras and with ``requirements``; return its Python."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = venv / f"{extra}.stamp"
    lists = [ROOT / "pyproject.toml", *([requirements] if requirements else [])]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in lists)).hexdigest()
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not has_pip(python):
        step(f"make {venv.name}", sys.executable, "-m", "venv", "--clear", venv)
    more = ["--requirement", requirements] if requirements else []
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
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


def in_background(work: Callable[..., object], *arguments: object) -> None:
    """Do this in a thread of its own. What its steps print is shown when each has ended, so that no two are mixed."""
    THREAD.in_background = True
    work(*arguments)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
