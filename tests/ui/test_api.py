"""The API over the standalone host, with the FastAPI and pydantic of each environment."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.checkpoint import Checkpoint
from lorax.hosts.jobs import Job
from lorax.hosts.standalone import Standalone

MOVE = {"source": "base", "target": "finetune", "adapters": ["Lora/contrast-base"]}


def call(server: str, path: str, body: dict | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(f"{server}lorax/v1/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)


def refused(server: str, path: str, body: dict | None = None) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as error:
        call(server, path, body)
    return error.value.code, error.value.read().decode()


def finished(server: str, job: dict) -> dict:
    while job["state"] == "running":
        time.sleep(0.1)
        job = call(server, f"jobs/{job['id']}")
    return job


def test_lists(models: Path, server: str) -> None:
    save_file({"double_blocks.0.img_attn.proj.weight": torch.zeros(2, 2)}, models / "pruned.safetensors")
    (models / "finetune.safetensors").write_bytes(b"damaged")
    told = {"base": ("Stable Diffusion 1.x", True), "finetune": ("", False), "pruned": ("FLUX.1", False)}
    assert call(server, "bases") == [
        {"name": name, "loaded": False, "family": family, "supported": supported} for name, (family, supported) in told.items()
    ]
    found = {adapter["name"]: adapter for adapter in call(server, "adapters")}
    assert found["Lora/contrast-base"]["rank"] == "4"
    assert found["Lora/contrast-base"]["trained_on"] == "base.safetensors"


def test_verdicts(server: str) -> None:
    """With the source that the LoRA names, or a given one; by `move`'s method a transfer is asked for."""
    asked = {"target": "pruned", "adapters": ["Lora/contrast-base"]}
    (found,) = call(server, "verdict", asked)
    assert (found["adapter"], found["kind"], found["strength"]) == ("Lora/contrast-base", "gains", 1)
    assert found["words"].startswith(
        "A slimmed-down relative: most of the LoRA fits, about a third has no place here. Moving takes less than a minute."
    )
    assert found["actions"][0] == {"do": "move", "method": "auto", "seconds": found["actions"][0]["seconds"], "bytes": 0}
    assert [one["kind"] for one in call(server, "verdict", asked | {"source": "finetune", "target": "base"})] == ["works"]
    assert refused(server, "verdict", asked | {"target": "none"})[0] == 404
    assert refused(server, "verdict", asked | {"adapters": ["x" * 5000]})[0] == 422
    code, text = refused(server, "verdict", asked | {"adapters": ["Lora/contrast-base"] * 101})
    assert (code, "at most 100" in text) == (422, True)


def test_the_library(server: str) -> None:
    found = call(server, "library?target=pruned&limit=2")
    assert (found["total"], len(found["rows"]), found["counts"]) == (3, 2, {"gains": 2, "works": 1})
    first = found["rows"][0]
    assert (first["adapter"], first["group"], first["kind"], first["source"]) == ("Lora/contrast-base", "gains", "gains", "base")
    assert first["words"] == call(server, "verdict", {"target": "pruned", "adapters": ["Lora/contrast-base"]})[0]["words"]
    assert first["actions"][0]["do"] == "move"
    rest = call(server, "library?target=pruned&limit=2&offset=2")["rows"]
    assert [row["adapter"] for row in rest] == ["Lora/contrast-pruned"]
    named = call(server, "library?target=pruned&search=finetune&sort=name")["rows"]
    assert [row["adapter"] for row in named] == ["Lora/contrast-finetune"]
    asked = {"items": [{"adapter": "Lora/contrast-base"}], "targets": ["pruned"], "options": {"method": "copy"}}
    finished(server, call(server, "batch", asked))
    (row,) = call(server, "library?target=pruned&only=done")["rows"]
    assert (row["adapter"], row["state"], row["moved"]) == ("Lora/contrast-base", "done", ["Lora/contrast-base-pruned"])


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ("", 422, "target"),
        ("target=none", 404, "No base 'none'"),
        ("target=pruned&closely=1", 422, "'closely': no such parameter"),
        ("target=pruned&only=some", 422, "expected one of gains, works"),
        ("target=pruned&sort=size", 422, "expected one of verdict, name, source"),
        ("target=pruned&limit=1001", 422, "1000"),
        ("target=pruned&limit=0", 422, "1"),
        ("target=pruned&offset=-1", 422, "0"),
        (f"target=pruned&search={'x' * 5000}", 422, "at most 4096"),
    ],
)
def test_the_library_has_limits(server: str, query: str, code: int, said: str) -> None:
    answer = refused(server, f"library?{query}")
    assert answer[0] == code
    assert said in answer[1]


def test_transfer(server: str, models: Path) -> None:
    chosen = {"options": {"method": "copy", "max_rank": 2}, "saving": {"dtype": "fp32"}}
    asked = MOVE | chosen | {"subfolder": "moved", "name": "mine"}
    job = finished(server, call(server, "transfer", asked))
    assert (job["state"], job["error"]) == ("done", "")
    assert job["results"][0]["written"] == "moved/mine.safetensors"
    assert (models / "Lora" / "moved" / "mine.safetensors").is_file()
    assert {layer["rank"] for layer in job["results"][0]["report"]["layers"]} == {2}
    job = finished(server, call(server, "transfer", asked))
    assert job["state"] == "failed"
    assert "exists already" in job["error"]


def test_what_is_not_given_is_as_the_settings_page_says(server: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Standalone, "defaults", lambda self: {"method": "copy", "max_rank": "2", "dtype": "fp32"})
    job = finished(server, call(server, "transfer", MOVE))
    (report,) = (result["report"] for result in job["results"])
    assert (report["method"], {layer["rank"] for layer in report["layers"]}) == ("copy", {2})
    tensors = load_file(models / "Lora" / job["results"][0]["written"])
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    job = finished(server, call(server, "analyse", MOVE | {"options": {"method": "lorax", "max_rank": None}}))
    (report,) = (result["report"] for result in job["results"])
    assert (report["method"], max(layer["rank"] or 0 for layer in report["layers"])) == ("lorax", 4)
    monkeypatch.setattr(Standalone, "defaults", lambda self: {"max_rank": "many"})
    assert "Largest rank 'many'" in refused(server, "transfer", MOVE)[1]


def test_a_lorax_file(server: str, models: Path) -> None:
    asked = MOVE | {"options": {"method": "copy"}, "saving": {"save_as": "lora-x"}}
    job = finished(server, call(server, "transfer", asked))
    assert job["results"][0]["written"] == "contrast-base-lorax.safetensors"
    assert "fits itself" in job["results"][0]["note"]
    found = {adapter["name"]: adapter["format"] for adapter in call(server, "adapters")}
    assert (found["Lora/contrast-base"], found["Lora/contrast-base-lorax"]) == ("LoRA", "LoRA-X")


def test_a_batch(server: str, models: Path) -> None:
    asked = {
        "items": [{"adapter": "Lora/contrast-base"}, {"adapter": "Lora/contrast-base", "source": "pruned"}],
        "targets": ["finetune", "pruned"],
        "options": {"method": "copy"},
        "saving": {"name": "{lora} {source} {target}", "strength": 0.5},
        "subfolder": "several",
    }
    job = finished(server, call(server, "batch", asked))
    assert (job["state"], job["error"]) == ("done", "")
    files = {pair: f"several/contrast-base {pair}.safetensors" for pair in ("base finetune", "base pruned")}
    told = {f"{one['source']} {one['target']}": one for one in job["results"]}
    assert list(told) == ["base finetune", "base pruned", "pruned finetune", "pruned pruned"]
    assert {pair: (told[pair]["outcome"], told[pair]["written"]) for pair in files} == {
        pair: ("written", file) for pair, file in files.items()
    }
    assert told["base finetune"]["report"]["saved_strength"] == 0.5
    assert all((models / "Lora" / file).is_file() for file in files.values())
    job = finished(server, call(server, "batch", asked | {"batching": {"skip_existing": True}}))
    again = [(one["outcome"], one["file"], one["written"]) for one in job["results"][:2]]
    assert again == [("existed already", file, None) for file in files.values()]
    for wrong, code, words in (
        ({"targets": []}, 422, "No target is chosen"),
        ({"items": [{"adapter": "none"}]}, 404, "No adapter"),
        ({"saving": {"name": "{base}"}}, 422, "is not known"),
    ):
        found = refused(server, "batch", asked | wrong)
        assert found[0] == code
        assert words in found[1]


def test_a_batch_has_a_bound(server: str) -> None:
    asked = {"items": [{"adapter": "Lora/contrast-base"}] * 5001, "targets": ["pruned", "finetune"]}
    code, text = refused(server, "batch", asked)
    assert (code, "10002 transfers" in text) == (422, True)


def test_a_batch_that_is_cancelled_tells_what_became_of_each(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Checkpoint.stored
    monkeypatch.setattr(Checkpoint, "stored", lambda *given: time.sleep(0.05) or stored(*given))
    job = call(server, "batch", {"items": [{"adapter": "Lora/contrast-base"}], "targets": ["finetune", "pruned"]})
    while not call(server, f"jobs/{job['id']}")["text"].startswith("1 of 2: "):
        time.sleep(0.01)
    call(server, f"jobs/{job['id']}/cancel", {})
    job = finished(server, job)
    assert job["state"] == "cancelled"
    assert [one["outcome"] for one in job["results"]] == ["stopped", "stopped"]


def test_analyse(server: str, models: Path) -> None:
    job = finished(server, call(server, "analyse", MOVE))
    assert job["results"][0]["report"]["coverage"] == 1
    assert job["results"][0]["written"] is None
    assert len(list((models / "Lora").iterdir())) == 3


def test_what_running_the_models_takes_is_told_and_nothing_is_run(server: str) -> None:
    asked = MOVE | {"options": {"method": "refine"}, "running": {"pictures": 16, "captions": ["a cat"], "trigger": "ink"}}
    job = finished(server, call(server, "analyse", asked))
    assert (job["state"], job["error"]) == ("done", "")
    report = job["results"][0]["report"]
    assert report["cost"]["seconds"] > 0
    assert report["cost"]["words"].startswith("about ")
    assert report["forecast"]["kind"] == "relatives"


def test_cancel(server: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Checkpoint.stored
    monkeypatch.setattr(Checkpoint, "stored", lambda *given: time.sleep(0.05) or stored(*given))
    job = call(server, "transfer", MOVE)
    call(server, f"jobs/{job['id']}/cancel", {})
    assert finished(server, job)["state"] == "cancelled"
    assert len(list((models / "Lora").iterdir())) == 3


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"source": "/etc/passwd"}, 404, "No base"),
        ({"adapters": ["../models/base"]}, 404, "No adapter"),
        ({"subfolder": "../.."}, 422, "outside of"),
        ({"name": "../mine"}, 422, "without folders"),
        ({"options": {"method": "magic"}}, 422, "expected one of"),
        ({"saving": {"dtype": "fp8"}}, 422, "expected one of"),
        ({"saving": {"save_as": "loha"}}, 422, "expected one of"),
        ({"options": {"threshold": 3}}, 422, "between 0 and 1"),
        ({"adapters": []}, 422, "No LoRA is chosen"),
        ({"running": {"pictures": 4}}, 422, "from 16 to 4096"),
        ({"running": {"captions": ["cat", ""]}}, 422, "number 2 of 2 is empty"),
        ({"running": {"captions": "/etc/passwd"}}, 422, "captions"),
        ({"options": {"pairing": "x"}}, 422, "expected one of auto, name, weights"),
        ({"options": {"device": "tpu"}}, 422, "not available here"),
        ({"options": {"max_rank": True}}, 422, "options.max_rank: "),
        ({"saving": {"overwrite": "yes"}}, 422, "saving.overwrite: "),
        ({"running": {"steps": float("nan")}}, 422, "running.steps: "),
        ({"running": {"pictures": float("inf")}}, 422, "running.pictures: "),
        ({"subfolder": "a:b*?"}, 422, "as every system can have it"),
        ({"subfolder": "..\\..\\x"}, 422, "subfolder"),
        ({"subfolder": " "}, 422, "dots and spaces alone"),
        ({"subfolder": "x" * 300}, 422, "at most 255 bytes"),
    ],
)
def test_refusals(server: str, change: dict, code: int, words: str) -> None:
    found = refused(server, "transfer", MOVE | change)
    assert found[0] == code
    assert words in found[1]


def test_files_that_cannot_be_used_end_the_job_with_the_reason(server: str, models: Path) -> None:
    (models / "Lora" / "contrast-base.safetensors").write_bytes(b"no tensors")
    job = finished(server, call(server, "transfer", MOVE))
    assert job["state"] == "failed"
    assert "not a whole safetensors file" in job["error"]


def test_unknown_job(server: str) -> None:
    code, text = refused(server, "jobs/none")
    assert (code, "The last 20 that have ended are kept" in text) == (404, True)


def test_what_is_refused_is_told_in_a_sentence(server: str) -> None:
    _, text = refused(server, "transfer", {"adapters": ["x"], **{str(number): 1 for number in range(20)}})
    told = json.loads(text)["detail"]
    assert told.startswith("source: ")
    assert told.endswith("; and 17 more")


@pytest.mark.parametrize("change", [{"source": float("nan")}, {"\ud800": 1}])
def test_what_is_no_json_or_no_text_is_refused(server: str, change: dict) -> None:
    """In pydantic 1 a name may be a number, which no file has."""
    code, text = refused(server, "transfer", MOVE | change)
    assert code in (404, 422)
    assert isinstance(json.loads(text)["detail"], str)


def test_a_new_file_is_listed_once_the_folder_is_looked_at_again(server: str, models: Path) -> None:
    shutil.copy(models / "Lora" / "contrast-base.safetensors", models / "Lora" / "new.safetensors")
    assert refused(server, "analyse", MOVE | {"adapters": ["Lora/new"]})[0] == 404
    before = len(call(server, "adapters"))
    assert call(server, "refresh", {}) == {"bases": len(call(server, "bases")), "adapters": before + 1}
    assert "Lora/new" in {one["name"] for one in call(server, "adapters")}


def test_what_was_written_can_be_asked_for_by_its_name(server: str) -> None:
    (written,) = finished(server, call(server, "transfer", MOVE | {"name": "mine"}))["results"]
    assert (written["written"], written["name"]) == ("mine.safetensors", "Lora/mine")
    (seen,) = finished(server, call(server, "analyse", MOVE | {"adapters": [written["name"]]}))["results"]
    assert (seen["adapter"], seen["written"], seen["name"]) == ("Lora/mine", None, None)


def test_options_of_no_effect_are_told(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If they are asked for; those of the settings page are for other methods, too."""
    asked = {"options": {"method": "copy", "threshold": 0.1, "rank": "8"}}
    (found,) = finished(server, call(server, "analyse", MOVE | asked))["results"]
    assert "No effect with method copy: rank, threshold." in found["note"]
    monkeypatch.setattr(Standalone, "defaults", lambda self: {"method": "copy", "threshold": "0.1"})
    (found,) = finished(server, call(server, "analyse", MOVE))["results"]
    assert (found["report"]["method"], found["note"]) == ("copy", "")


def test_a_job_that_waited_and_was_cancelled_leaves_its_place(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()

    def waits(*_: Any) -> list[Any]:
        assert going.wait(60)
        return []

    monkeypatch.setattr("lorax.api.routes.analyse", waits)
    try:
        first, *others = (call(server, "analyse", MOVE)["id"] for _ in range(20))
        for job in others:
            assert call(server, f"jobs/{job}/cancel", {})["state"] == "cancelled"
        until, last = time.monotonic() + 30, None
        while last is None:
            assert time.monotonic() < until, "no place was left"
            time.sleep(0.1)
            with contextlib.suppress(urllib.error.HTTPError):
                last = call(server, "analyse", MOVE)
    finally:
        going.set()
    assert {finished(server, job)["state"] for job in (call(server, f"jobs/{first}"), last)} == {"done"}


def test_a_job_that_ends_while_it_is_looked_at_is_shown_whole() -> None:
    """Whatever is read first, a job that is shown as done has its results, and one that failed its error."""
    pytest.importorskip("fastapi", reason="needs gradio: python dev.py ui")
    from lorax.api.jobs import shown

    class Ending(Job):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name in ("state", "outcome", "error"):  # right after it was looked at
                self.__dict__.update(outcome=[{"adapter": "x"}], error="why", state=self.__dict__["ends"])
            return value

    for ends in ("done", "failed"):
        job = Ending("", "", "")
        job.__dict__["ends"] = ends
        first, second = shown(job), shown(job)
        assert first.state == "running"
        assert (second.state, bool(second.results), second.error) == (ends, ends == "done", "why")


def test_it_is_documented(server: str) -> None:
    with urllib.request.urlopen(f"{server}openapi.json") as answer:
        paths = json.load(answer)["paths"]
    assert {"/lorax/v1/bases", "/lorax/v1/transfer", "/lorax/v1/jobs/{id}/cancel"} <= set(paths)


def sent(server: str, path: str, body: bytes, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{server}lorax/v1/{path}", body, headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"adapter": ["x"]}, "adapter"),
        ({"options": {"metod": "copy"}}, "metod"),
        ({"saving": {"overwrit": True}}, "overwrit"),
        ({"running": {"captions": ["a" * 4097]}}, "4096"),
        ({"running": {"captions": ["a"] * 10_001}}, "10000"),
        ({"name": "a" * 4097}, "4096"),
        ({"adapters": ["x"] * 10_001}, "10000"),
    ],
)
def test_what_is_unknown_or_too_long_is_refused_and_not_ignored(server: str, more: dict, said: str) -> None:
    code, text = refused(server, "transfer", MOVE | more)
    assert code == 422
    assert said in text


@pytest.fixture
def api(models: Path) -> Iterator[str]:
    """Address of the routes alone, without the standalone server's guard: as a WebUI has them."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs gradio: python dev.py ui")
    from fastapi import FastAPI

    from lorax.api import router

    app = FastAPI()
    app.include_router(router(Standalone(models)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


def test_a_job_is_asked_for_as_json_of_bounded_size(api: str) -> None:
    """By the router itself, without the guard of the standalone server: as in a WebUI."""
    body = json.dumps(MOVE).encode()
    assert sent(api, "analyse", body, **{"Content-Type": "text/plain"}) == 415
    assert sent(api, "analyse", body, **{"Content-Type": "application/x-www-form-urlencoded"}) == 415
    connection = http.client.HTTPConnection(api.removeprefix("http://").rstrip("/"), timeout=30)
    connection.putrequest("POST", "/lorax/v1/analyse")
    for name, value in (("Content-Type", "application/json"), ("Content-Length", str(5 << 20))):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413, "before any of it is sent"
    connection.close()
    connection.request("POST", "/lorax/v1/analyse", iter([body]), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 411, "in chunks, of which nobody knows how many come"
    assert sent(api, "analyse", body, **{"Content-Type": "application/json"}) == 202


def test_a_line_of_jobs_is_bounded(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them wait for the first."""
    going = threading.Event()
    monkeypatch.setattr("lorax.hosts.standalone.Standalone.run", lambda self, work, progress: going.wait(60) and [])
    jobs = [call(server, "analyse", MOVE)["id"] for _ in range(20)]
    code, text = refused(server, "analyse", MOVE)
    assert (code, "20 jobs" in text) == (429, True)
    going.set()
    assert {finished(server, call(server, f"jobs/{job}"))["state"] for job in jobs} == {"done"}
    assert call(server, "analyse", MOVE)["state"]
