"""The WebUI as a host, over its double: callbacks, lists, queue, settings, pictures, routes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
import sys
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorax.catalog import ListedFile, facts
from lorax.errors import Interrupted, LoraxError
from lorax.hosts.base import Drawing, Shot
from lorax.options import Options, Running, Saving, declared
from lorax.workflow import InFolder, Request, transfer
from tests.ui.double import Double, in_each_shape

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")
AXES = ("[LoRA-X] Moved LoRA", "[LoRA-X] Strength", "[LoRA-X] Method")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "lorax_webui.py"


@pytest.fixture
def host(double: Double) -> Any:
    from lorax.hosts.a1111.host import A1111

    return A1111()


def loaded() -> Any:
    """The script, as the WebUI loads it."""
    specification = importlib.util.spec_from_file_location("lorax_webui.py", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def callbacks(double: Double) -> dict[str, Any]:
    """Load the script; return the callbacks that it registers."""
    loaded()
    return double.callbacks


@in_each_shape
def test_the_script_registers_a_tab(double: Double) -> None:
    ((blocks, title, name),) = callbacks(double)["tabs"]()
    assert (title, name) == ("LoRA-X", "lorax_tab")
    ids = {component.elem_id for component in blocks.blocks.values()}
    assert {"lorax_source", "lorax_target", "lorax_adapters", "lorax_analyse", "lorax_move", "lorax_gallery"} <= ids
    assert {f"lorax_{option.name}" for option in declared(Options) + declared(Running)} <= ids


@in_each_shape
def test_lists_that_the_webui_fills_anew_lose_nothing_that_is_there(double: Double, host: Any) -> None:
    """It empties them first; what was chosen would be taken out, and a source be called missing."""
    bases, adapters = host.bases(), host.adapters()
    assert "base.safetensors" in bases
    double.modules["sd_models"].checkpoints_list.clear()
    double.modules["networks"].available_networks.clear()
    assert (host.bases(), host.adapters()) == (bases, adapters)
    adapters["contrast-base"].path.unlink()
    assert host.adapters().keys() == adapters.keys() - {"contrast-base"}


@in_each_shape
def test_the_settings_page_gives_the_defaults(double: Double, host: Any) -> None:
    callbacks(double)["settings"]()
    options = double.modules["shared"].opts
    assert options.data_labels["lorax_method"].default == "auto"
    assert options.data_labels["lorax_threshold"].label == "Similarity threshold"
    assert dict(host.defaults()) == {}
    assert options.data_labels["lorax_pictures"].default == ""
    assert not {"lorax_captions", "lorax_trigger"} & set(options.data_labels), "they are chosen for each LoRA"
    assert (options.data_labels["lorax_steps"].label, options.data_labels["lorax_steps"].default) == ("Training steps", "")
    options.data |= {"lorax_method": "copy", "lorax_max_rank": "8", "lorax_pictures": 64, "lorax_steps": "50"}
    assert dict(host.defaults()) == {"method": "copy", "max_rank": "8", "pictures": 64, "steps": "50"}
    ((blocks, *_),) = callbacks(double)["tabs"]()
    values = {component.elem_id: getattr(component, "value", None) for component in blocks.blocks.values()}
    assert (values["lorax_method"], values["lorax_max_rank"], values["lorax_pictures"]) == ("copy", "8", "64")
    assert values["lorax_steps"] == "50"


@in_each_shape
def test_a_default_that_an_earlier_version_has_stored_is_no_wish_of_the_user(double: Double, host: Any) -> None:
    """The WebUI stores every option as soon as a user sets one. What is typed into a text field is a text."""
    options = double.modules["shared"].opts
    options.data["lorax_pictures"] = 384
    callbacks(double)["settings"]()
    assert "lorax_pictures" not in host.defaults()
    options.data["lorax_pictures"] = "384"
    callbacks(double)["settings"]()
    assert host.defaults()["pictures"] == "384"


@in_each_shape
def test_the_settings_page_holds_the_cache(double: Double, host: Any, tmp_path: Path) -> None:
    import gradio as gr

    callbacks(double)["settings"]()
    options, cache = double.modules["shared"].opts, loaded().cache
    assert cache() is loaded().cache()  # Reload UI runs the script again
    folder = tmp_path / "data" / "cache" / "lorax"
    assert (cache().folder, cache().disk_limit, cache().memory_limit) == (folder, 4 << 30, 256 << 20)
    labels = options.data_labels
    assert labels["lorax_cache_size"].component_args == {"minimum": 0, "maximum": 64, "step": 1}
    for name, value in (("cache_folder", "elsewhere"), ("cache_size", 2), ("cache_memory", 0.0)):
        options.data[f"lorax_{name}"] = value
        labels[f"lorax_{name}"].onchange()
    assert (cache().folder, cache().disk_limit, cache().memory_limit) == (tmp_path / "data" / "elsewhere", 2 << 30, 0)

    (cache().folder / "key.lorax-fit").write_bytes(b"fitted")
    facts(next(iter(host.adapters().values())).path)
    assert len(list(cache().folder.iterdir())) == 2, "what is known of the LoRAs is kept beside it"
    info = labels["lorax_cache_clear"]
    with gr.Blocks() as page:
        button = info.component(label=info.label, value=info.default, elem_id="setting_lorax_cache_clear")
    assert info.do_not_save
    assert (button.value, button.elem_id) == ("Clear the cache", "setting_lorax_cache_clear")
    (click,) = page.fns.values() if isinstance(page.fns, dict) else page.fns
    assert click.fn()["value"] == "Cleared"
    (kept,) = cache().folder.iterdir()  # it stays for what the user has said of a LoRA
    with contextlib.closing(sqlite3.connect(kept)) as known:
        assert known.execute("SELECT * FROM files").fetchall() == []


@in_each_shape
def test_a_cache_folder_that_cannot_be_is_refused(double: Double, host: Any, tmp_path: Path) -> None:
    callbacks(double)["settings"]()
    (tmp_path / "file").write_bytes(b"")
    options = double.modules["shared"].opts
    options.data["lorax_cache_folder"] = str(tmp_path / "file" / "inside")
    with pytest.warns(UserWarning, match="Choose another folder"), pytest.raises(LoraxError, match="cannot hold the cache"):
        options.data_labels["lorax_cache_folder"].onchange()


@pytest.mark.parametrize(("name", "value"), [("rank", "banana"), ("steps", "-3"), ("method", "magic")])
def test_the_settings_page_refuses_what_the_options_do(double: Double, name: str, value: str) -> None:
    callbacks(double)["settings"]()
    options = double.modules["shared"].opts
    options.data[f"lorax_{name}"] = value
    with pytest.warns(UserWarning, match=name), pytest.raises(LoraxError, match=name):
        options.data_labels[f"lorax_{name}"].onchange()


def test_fitting_happens_where_the_settings_page_says(double: Double) -> None:
    device = loaded().device
    assert device() == "auto"
    double.modules["shared"].opts.data["lorax_device"] = "cpu"
    assert device() == "cpu"


@in_each_shape
def test_a_webui_that_cannot_apply_lorax_files_says_so_everywhere(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = double.modules["networks"]
    for name in ("module_types", "load_lora_state_dict"):
        monkeypatch.delattr(networks, name, raising=False)
    networks.available_networks["contrast-pruned"].metadata = {"lorax_format": "1"}
    from lorax.hosts.a1111.host import A1111

    host = A1111()
    assert "save it as a plain LoRA" in host.notice
    ((blocks, *_),) = callbacks(double)["tabs"]()
    shown = {component.elem_id: getattr(component, "value", "") for component in blocks.blocks.values()}
    assert "save it as a plain LoRA" in shown["lorax_save_as_notice"]
    messages: list[str] = []
    asked = {"lora": [SimpleNamespace(positional=[name]) for name in ("contrast-base", "contrast-pruned")]}
    loaded().LoraxNetworks().after_extra_networks_activate(SimpleNamespace(comment=messages.append), extra_network_data=asked)
    (message,) = messages
    assert message.startswith("LoRA-X, contrast-pruned: not applied")
    assert "save it as a plain LoRA" in message


def test_a_webui_without_the_needed_modules_is_left_alone_with_a_sentence(
    double: Double, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As SD.Next, which has no modules.util."""
    monkeypatch.delitem(sys.modules, "modules.util")
    assert not hasattr(loaded(), "LoraxNetworks")
    assert double.callbacks == {}
    assert "this WebUI has no modules.util. Move LoRAs by python -m lorax serve" in caplog.text


@in_each_shape
def test_models_run_by_the_webui_or_by_our_runner_once_it_made_room(double: Double, host: Any) -> None:
    assert type(host.models()).__name__ == ("HostModels" if double.kind == "a1111" else "HostRunners")


@in_each_shape
def test_lists(double: Double, host: Any) -> None:
    assert list(host.bases()) == ["base.safetensors", "finetune.safetensors", "pruned.safetensors"]
    assert host.loaded() == "base.safetensors"
    assert host.adapters()["contrast-base"].path == host.adapter_folder / "contrast-base.safetensors"
    assert host.tag(host.adapter_folder / "contrast-base.safetensors") == "<lora:contrast-base:1>"
    assert host.notice == host.without_lorax == ""


@in_each_shape
def test_what_is_chosen_counts_as_loaded_and_stays_so(double: Double, host: Any) -> None:
    infos, data = {info.name: info for info in double.infos}, double.modules["sd_models"].model_data

    def choose(name: str) -> None:
        if double.kind == "forge":
            data.forge_loading_parameters = {"checkpoint_info": infos[name]}
        else:
            data.sd_model = SimpleNamespace(sd_checkpoint_info=infos[name])

    choose("finetune.safetensors")
    assert host.loaded() == "finetune.safetensors"

    def another(progress: Any) -> str:
        choose("pruned.safetensors")
        return host.loaded()

    meanwhile = host.run(another, lambda *given: None)
    if double.kind == "forge":  # which loads by itself: only the user chooses
        assert (meanwhile, double.returns) == ("pruned.safetensors", [])
    else:
        assert meanwhile == "finetune.safetensors", "what a job loads for a while is not what the user draws with"
        assert double.returns == ["finetune.safetensors"]
        assert host.loaded() == "pruned.safetensors", "by the double, which loads nothing"


def test_what_a_job_loads_first_is_not_what_the_user_draws_with(double: Double, host: Any) -> None:
    """As a WebUI that started without a model."""
    data, shared = double.modules["sd_models"].model_data, double.modules["shared"]
    data.sd_model = None
    chosen = host.loaded()

    def another(progress: Any) -> str:
        data.sd_model = SimpleNamespace(sd_checkpoint_info=next(one for one in double.infos if one.name != chosen))
        return host.loaded()

    assert host.run(another, lambda *given: None) == chosen == shared.opts.sd_model_checkpoint


def test_what_a_job_did_stands_though_the_checkpoint_cannot_be_loaded_again(
    double: Double, host: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    models, chosen = double.modules["sd_models"], sys.modules["lorax.hosts.a1111.chosen"]

    def fails(info: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    def work(progress: Any) -> str:
        models.model_data.sd_model = SimpleNamespace(sd_checkpoint_info=double.infos[1])
        return "written"

    monkeypatch.setattr(models, "reload_model_weights", fails)
    assert host.run(work, lambda *given: None) == "written"
    assert "could not be loaded again" in caplog.text
    assert chosen.shown() is double.infos[1]


def test_a_picture_of_another_checkpoint_is_no_comparison(double: Double, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = SimpleNamespace(images=[None], comments="", sd_model_name="pruned")
    monkeypatch.setattr(double.modules["processing"], "process_images", lambda job: drawn)
    shot = Shot("alone", host.bases()["finetune.safetensors"], None)
    with pytest.raises(LoraxError, match="drew with pruned, not with finetune"):
        list(host.pictures([shot], Drawing("a cat"), lambda *given: None))


@in_each_shape
def test_a_look_at_the_folders_selects_no_checkpoint(double: Double, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --ckpt, the WebUI selects that file whenever it looks for checkpoints."""
    data = double.modules["shared"].opts.data
    monkeypatch.setattr(double.modules["sd_models"], "list_models", lambda: data.update(sd_model_checkpoint="base.safetensors"))
    data["sd_model_checkpoint"] = "pruned.safetensors"
    host.refresh()
    assert data["sd_model_checkpoint"] == "pruned.safetensors"


@in_each_shape
def test_what_the_user_selects_while_pictures_are_drawn_stays_selected(
    double: Double, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, given = double.modules["shared"].opts.data, SimpleNamespace(images=[None], comments="")
    match = double.modules["sd_models"].get_closet_checkpoint_match
    titled = " [0123456789]"  # which the WebUI notes once it has loaded a checkpoint
    monkeypatch.setattr(
        double.modules["sd_models"], "get_closet_checkpoint_match", lambda title: match(title.removesuffix(titled))
    )

    def process_images(job: Any) -> Any:
        before = dict(data)
        data["sd_model_checkpoint"] = job.given["override_settings"]["sd_model_checkpoint"] + titled
        if next(selections):
            before["sd_model_checkpoint"] = data["sd_model_checkpoint"] = "pruned.safetensors"  # Forge's own way with it
        if job.given["override_settings_restore_afterwards"]:
            data.update(before)
        return given

    monkeypatch.setattr(double.modules["processing"], "process_images", process_images)
    bases = host.bases()
    shots = [Shot("alone", bases[name], None) for name in ("base.safetensors", "finetune.safetensors")]
    for selects, expected in (((False, False), "base.safetensors"), ((True, False), "pruned.safetensors")):
        data["sd_model_checkpoint"], selections = "base.safetensors", iter(selects)
        list(host.pictures(shots, Drawing("a cat"), lambda *given: None))
        assert data["sd_model_checkpoint"] == expected
    assert double.reloaded == (0 if double.kind == "forge" else 2)


def test_a_picture_that_fails_at_once_selects_nothing(double: Double, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the settings by then is the picture's before it, and not the user's choice."""
    data, given, drawn = double.modules["shared"].opts.data, SimpleNamespace(images=[None], comments=""), list[str]()

    def process_images(job: Any) -> Any:
        if drawn:
            raise RuntimeError("another extension")
        drawn.append(job.given["override_settings"]["sd_model_checkpoint"])
        data["sd_model_checkpoint"] = drawn[0]
        return given

    monkeypatch.setattr(double.modules["processing"], "process_images", process_images)
    data["sd_model_checkpoint"], bases = "pruned.safetensors", host.bases()
    shots = [Shot("alone", bases[name], None) for name in ("base.safetensors", "finetune.safetensors")]
    with pytest.raises(RuntimeError, match="another extension"):
        list(host.pictures(shots, Drawing("a cat"), lambda *given: None))
    assert data["sd_model_checkpoint"] == "pruned.safetensors"


def test_a_checkpoint_that_was_replaced_under_its_name_is_loaded_anew(double: Double, host: Any) -> None:
    """The WebUI compares names alone."""
    from lorax.hosts.a1111 import models

    info = double.infos[0]
    data, sha256 = double.modules["sd_models"].model_data, info.sha256
    data.loaded_sd_models = [SimpleNamespace(sd_checkpoint_info=SimpleNamespace(filename=info.filename, sha256=sha256))]
    assert not models._is_replaced(info)
    data.loaded_sd_models[0].sd_checkpoint_info.sha256 = "of before"
    assert models._is_replaced(info)
    assert not models._is_replaced(double.infos[1])


@in_each_shape
def test_sending_chooses_the_checkpoint_if_the_page_would_not(double: Double, host: Any, tmp_path: Path) -> None:
    """A lazy WebUI's page notes what its list changes to, which may show the checkpoint already. The others' always loads it."""
    from lorax.ui.handlers import Handlers

    Handlers(host).sent("<lora:contrast-base-finetune:1>", "finetune.safetensors", "<lora:contrast-base:1>")
    stored = tmp_path / "config.json"  # of the next start
    if double.kind != "forge":
        assert (host.loaded(), stored.exists()) == ("base.safetensors", False)
        return
    assert host.loaded() == "finetune.safetensors"
    assert double.modules["shared"].opts.sd_model_checkpoint == "finetune.safetensors"
    assert json.loads(stored.read_text("utf-8"))["sd_model_checkpoint"] == "finetune.safetensors"


@in_each_shape
def test_without_the_lora_extension(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "networks")
    from lorax.hosts.a1111.host import A1111

    host = A1111()
    assert "Lora is disabled" in host.notice
    assert "contrast-base" in host.adapters()
    assert host.tag(Path("x.safetensors")) == "<lora:x:1>"
    with pytest.raises(LoraxError, match="extension Lora, which is disabled"):
        list(host.pictures([], Drawing("cat"), lambda done, total, text: None))
    assert double.drawn == []


@in_each_shape
def test_no_file_is_written_that_prompts_could_not_tell_from_another(host: Any) -> None:
    folder, bases, lora = host.adapter_folder, host.bases(), host.adapters()["contrast-base"]
    asked = Request(bases["base.safetensors"], bases["finetune.safetensors"], [lora], Options("copy"))
    (folder / "zz").mkdir()
    known = folder / "zz" / "contrast-base-finetune.safetensors"
    known.write_bytes(lora.path.read_bytes())  # the host has not looked since
    before = sorted(folder.rglob("*"))

    def into(subfolder: str) -> None:
        saving = Saving(overwrite=True)
        transfer(asked, InFolder(folder, subfolder, saving=saving, prompt_names=host.prompt_names), lambda *given: None)

    with pytest.raises(LoraxError, match=f"could not be told from {known}"):
        into("")
    assert sorted(folder.rglob("*")) == before
    into("zz")  # where it is the file that is to be replaced


@in_each_shape
def test_a_job_reports_to_the_hosts_state_and_the_hosts_own_interrupt_stops_it(double: Double, host: Any) -> None:
    state = double.modules["shared"].state

    def work(progress: Any) -> None:
        progress(1, 4, "first")
        assert (state.job_no, state.job_count, state.textinfo) == (1, 4, "first")
        state.interrupt()
        progress(2, 4, "second")

    with pytest.raises(Interrupted):
        host.run(work, lambda *given: None)
    assert not state.interrupted, "of the next job nothing is to be stopped"


@in_each_shape
def test_the_webui_stores_nothing_of_the_tab(double: Double) -> None:
    """Or what it stored at its first start would win over our page of the settings for ever."""
    ((blocks, *_),) = callbacks(double)["tabs"]()
    assert all(component.do_not_save_to_config for component in blocks.blocks.values())


@in_each_shape
def test_folders_are_opened_for_the_one_who_sits_there(double: Double, host: Any) -> None:
    given = double.modules["shared"].cmd_opts
    assert host.opens_folders
    host.open_folder(host.adapter_folder)
    assert double.opened == [str(host.adapter_folder)]
    for flag in ("hide_ui_dir_config", "webui_is_non_local"):
        setattr(given, flag, True)
        assert not host.opens_folders
        setattr(given, flag, False)


@in_each_shape
def test_a_job_of_the_api_has_the_queue_to_itself(double: Double, host: Any) -> None:
    lock, state = double.modules["call_queue"].queue_lock, double.modules["shared"].state
    assert host.run(lambda progress: (lock.locked(), state.job), lambda done, total, text: None) == (True, "lorax")
    assert not lock.locked()
    assert state.job == ""


@in_each_shape
def test_pictures_and_the_way_back(double: Double, host: Any) -> None:
    bases, lora = host.bases(), host.adapters()["contrast-base"]
    shots = [Shot("with", bases["finetune.safetensors"], lora, 0.6, 8), Shot("alone", bases["finetune.safetensors"], None)]
    named = ("<lora:contrast-base:0.5>", "<lora:contrast-base>", "<lyco:contrast-base by its author:1:te=0>")
    prompt = f"cat {' '.join(named)} face <lora:contrast-pruned:1>"
    double.comments = "Lora not found: x\n"
    drawing = Drawing(prompt, "dog", 5, 3.5, "DDIM", "Karras", 64, 72)
    drawn = list(host.pictures(shots, drawing, lambda done, total, text: None))
    assert [one.comments for one in drawn] == [["Lora not found: x"]] * 2
    left = ["cat", "face", "<lora:contrast-pruned:1>"]  # which is another
    assert [drawn["prompt"].split() for drawn in double.drawn] == [[*left, "<lora:contrast-base:0.6>"], left]
    asked = {"negative_prompt": "dog", "steps": 5, "cfg_scale": 3.5, "sampler_name": "DDIM", "scheduler": "Karras"}
    assert all(drawn.items() >= (asked | {"width": 64, "height": 72}).items() for drawn in double.drawn)
    assert [drawn["seed"] for drawn in double.drawn] == [8, 7]
    assert all(drawn["override_settings"] == {"sd_model_checkpoint": "finetune.safetensors"} for drawn in double.drawn)
    assert double.reloaded == (double.kind != "forge"), "which loads by itself what is chosen"
    assert double.temporary == 1, "Neo has a folder of temporary files that it never makes"


def test_pictures_have_the_script_that_fits_lorax_files_and_no_other(double: Double, host: Any) -> None:
    from lorax.hosts.a1111.network import SCRIPT

    ours, another = type(SCRIPT, (), {})(), object()
    double.modules["scripts"].scripts_txt2img.alwayson_scripts = [another, ours]
    list(host.pictures([Shot("alone", host.bases()["base.safetensors"], None)], Drawing("cat"), lambda done, total, text: None))
    assert double.drawn[0]["scripts"].alwayson_scripts == [ours]
    assert double.drawn[0]["script_args"][0:0] == ()


@in_each_shape
def test_the_checkpoint_is_switched_back_after_an_interrupt(double: Double, host: Any) -> None:
    def stop(done: int, total: int, text: str) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        list(host.pictures([Shot("alone", ListedFile("a", Path("a")), None)], Drawing("cat"), stop))
    assert double.reloaded == (double.kind != "forge")


@in_each_shape
def test_pictures_are_drawn_by_what_txt2img_offers(double: Double, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (host.samplers(), host.schedules()) == (["DPM++ 2M", "DDIM"], ["Automatic", "Karras"])
    monkeypatch.delitem(sys.modules, "modules.sd_schedulers")  # older WebUIs have none
    assert host.schedules() == []


@in_each_shape
def test_the_plot_of_the_webui_gets_axes_once(double: Double) -> None:
    before_ui = callbacks(double)["before_ui"]
    for _ in range(2):
        before_ui()
    assert [axis.label for axis in double.plot.axis_options[1:]] == list(AXES)
    double.modules["scripts"].scripts_data.clear()  # a WebUI without the script
    before_ui()


@in_each_shape
def test_axes_change_the_tags_of_moved_loras_in_any_order(double: Double, host: Any) -> None:
    bases, lora = host.bases(), host.adapters()["contrast-base"]
    for method in ("copy", "lorax"):
        asked = Request(bases["base.safetensors"], bases["finetune.safetensors"], [lora], Options(method))
        transfer(asked, InFolder(host.adapter_folder, saving=Saving(name=f"by-{method}")), lambda *given: None)
    host.refresh()
    callbacks(double)["before_ui"]()
    which, strength, method = double.plot.axis_options[1:]
    assert (which.choices(), method.choices()) == (["None", "by-copy", "by-lorax"], ["copy", "lorax"])

    def drawn(prompt: str, *applied: tuple[Any, Any]) -> str:
        p = SimpleNamespace(prompt=prompt)
        for axis, x in applied:
            axis.apply(p, x, [])
        return p.prompt

    plain = "cat <lora:contrast-base:1>"  # which is not moved, and stays
    double.modules["shared"].state.xyz_plot_y = SimpleNamespace(axis=which)
    for applied in permutations([(which, "by-copy"), (strength, 0.4), (method, "lorax")]):
        assert drawn(plain, *applied) == f"{plain} <lora:by-lorax:0.4>"
    assert drawn(f"{plain} <lora:by-copy:1>", (which, "None"), (strength, 0.4)) == plain
    del double.modules["shared"].state.xyz_plot_y
    assert drawn("a <lora:by-copy:0.9:te=0:dyn=4> b", (method, "lorax")) == "a <lora:by-lorax:0.9:te=0:dyn=4> b"
    assert drawn("a <lora:by-copy:0.9:te=0:dyn=4> b", (strength, 0.5)) == "a <lora:by-copy:0.5:dyn=4> b"
    with pytest.raises(RuntimeError, match="no tag of a moved LoRA"):
        drawn(plain, (strength, 0.4))
    with pytest.raises(RuntimeError, match="nothing: no LoRA of this name was moved"):
        which.confirm(None, ["by-copy", "nothing"])
    with pytest.raises(RuntimeError, match="There are those by copy, lorax"):
        method.confirm(None, ["bridge"])
    (host.adapter_folder / "by-lorax.safetensors").unlink()
    with pytest.raises(RuntimeError, match="by-copy was not moved by lorax"):
        drawn("a <lora:by-copy:1>", (method, "lorax"))


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ({}, None),
        ({"/sdapi/v1/options": []}, []),
        ({"/sdapi/v1/options": ["password"]}, ["password"]),
        ({"/sdapi/v1/options": ["password"], "/login_check": []}, ["password"]),
    ],
)
def test_guards(double: Double, routes: dict, expected: list | None) -> None:
    from lorax.hosts.a1111.host import guards

    app = SimpleNamespace(routes=[SimpleNamespace(path=path, dependencies=found) for path, found in routes.items()])
    assert guards(app) == expected


@in_each_shape
def test_the_pages_login_guards_where_the_api_has_none(double: Double) -> None:
    from lorax.hosts.a1111.host import guards

    page = SimpleNamespace(path="/login_check", endpoint=lambda: None)
    (found,) = guards(SimpleNamespace(routes=[SimpleNamespace(path="/sdapi/v1/options", dependencies=[]), page])) or []
    assert found.dependency is page.endpoint


@in_each_shape
def test_no_route_without_the_hosts_api(double: Double) -> None:
    from fastapi import FastAPI

    app = FastAPI()
    callbacks(double)["started"](None, app)
    assert not any(getattr(route, "path", "").startswith("/lorax") for route in app.routes)
    app.get("/sdapi/v1/options")(lambda: None)
    callbacks(double)["started"](None, app)
    assert "/lorax/v1/bases" in app.openapi()["paths"]
