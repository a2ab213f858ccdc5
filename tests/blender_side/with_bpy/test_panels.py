"""What panels, dialogs and menus draw: the prompt's words, and no sentence cut at any width."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bpy
import pytest

import dreamflow_blender
from dreamflow_blender import translations
from dreamflow_blender.backlog.entries import CANDIDATE
from dreamflow_blender.backlog.running import Running
from dreamflow_blender.backlog.store import Entry
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.ops import generate as ops_generate
from dreamflow_blender.scene import pictures
from dreamflow_blender.session import estimates, findings, jobs, loras, models, service
from dreamflow_blender.settings import addon
from dreamflow_blender.settings.generate import set_beside
from dreamflow_blender.settings.refine import frozen
from dreamflow_blender.ui import candidates, history, menus, parts, problems, prompt, sidebar
from dreamflow_blender.ui import loras as ui_loras
from dreamflow_blender.ui import refine as ui_refine
from dreamflow_blender.ui import setup as ui_setup
from tests.blender_side.with_bpy import fake, layout

# Pixels of the region, and Blender's UI scale
WIDTHS = ((190, 1.0), (260, 1.0), (400, 1.0), (280, 1.5), (390, 1.5), (380, 2.0), (520, 2.0))


@pytest.fixture
def enabled(tmp_path, monkeypatch):
    folder = tmp_path / "ä user"
    folder.mkdir()
    monkeypatch.setattr(addon, "user_folder", lambda: folder)
    monkeypatch.setattr(models, "_look", lambda name: False)
    models._seen.clear()
    entry = bpy.context.preferences.addons.new()
    entry.module = addon.NAME
    monkeypatch.setenv(service.PYTHON, str(fake.python(tmp_path)))
    service.forget_state()
    dreamflow_blender.register()
    yield bpy.context.scene.dreamflow
    jobs.running = jobs.problem = None
    dreamflow_blender.unregister()
    bpy.context.preferences.addons.remove(entry)
    findings.models.clear()
    service.forget_state()


def main():
    return layout.draw(sidebar.DREAMFLOW_PT_main)


def running(settings):
    """A job that runs."""
    now = Running(Entry(ops_generate.make_job(settings)), (*p.STAGES, "deliver"))
    jobs.running = now
    return now


def test_an_unknown_word_is_said_while_one_types(enabled):
    enabled.prompt = "a wooden sofa"
    drawn = main()
    assert "'sofa' is no known kind" in drawn.said().replace("\n", " ")
    assert drawn.menus == ["DREAMFLOW_MT_things", "DREAMFLOW_MT_colours"]
    assert not bpy.ops.dreamflow.generate.poll()
    enabled.prompt = "a big red cup"
    assert "Left out: big." in main().said().replace("\n", " ") and bpy.ops.dreamflow.generate.poll()
    enabled.negative = "blurry"
    assert not bpy.ops.dreamflow.generate.poll() and "negative" in main().props


def test_notation_of_other_programs_is_said_while_one_types(enabled, monkeypatch):
    monkeypatch.setattr(models, "_look", lambda name: True)
    enabled.model, enabled.prompt = "STABLE_DIFFUSION", "a <lora:glaze:1> mug"
    said = main().said().replace("\n", " ")
    assert "names a LoRA" in said and "under Additions" in said and not bpy.ops.dreamflow.generate.poll()
    enabled.prompt = "a mug (new)"
    assert "names a LoRA" not in main().said() and bpy.ops.dreamflow.generate.poll()
    enabled.model, enabled.prompt = "BUILT_IN", "a (red:1.3) mug"
    assert "Read as “a red mug”" in main().said().replace("\n", " ") and bpy.ops.dreamflow.generate.poll()


def lora_file(path, metadata):
    """As safetensors writes one, without a tensor."""
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return str(path)


def test_loras_are_listed_and_go_with_the_job_and_come_back_from_the_history(enabled, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_look", lambda name: True)
    glaze = lora_file(tmp_path / "ä glaze: 2.safetensors", {"modelspec.trigger_phrase": "blue glaze"})
    tags = json.dumps({"10_pots": {"clay": 9, "pot": 30, "mug": 2}})
    clay = lora_file(tmp_path / "clay.safetensors", {"ss_tag_frequency": tags})
    enabled.model, enabled.prompt = "SDXL_BASE", "a red mug"
    for path in (glaze, clay):
        bpy.ops.dreamflow.add_lora(filepath=path)
    drawn = main()
    assert drawn.lists == ["loras"] and "Additions (2)" in drawn.texts and "Add to prompt" in drawn.buttons()
    assert "Trained with: pot, clay, mug" in drawn.said().replace("\n", " ")
    bpy.ops.dreamflow.add_words()
    assert enabled.prompt == "a red mug, pot, clay"
    enabled.loras[1].weight = -0.35
    job = ops_generate.make_job(enabled)
    assert job.lora == (f"{glaze}:1", f"{clay}:-0.35") and job.prior == "sdxl"
    jobs.get_store().put(replace(Entry(job, state="finished"), ended=100.0))
    enabled.model = "STABLE_DIFFUSION"  # whose refiner does not know them
    assert ops_generate.make_job(enabled).refiner == ""
    bpy.ops.dreamflow.remove_lora()
    enabled.loras[0].weight = 2.0
    bpy.ops.dreamflow.use_settings(job_id=job.id)
    assert ops_generate.make_job(enabled).is_same(job) and enabled.model == "SDXL_BASE"
    enabled.model = "BUILT_IN"  # which knows none
    assert ops_generate.make_job(enabled).lora == () and main().lists == []


def adapter_file(path):
    """An IP-Adapter's header."""
    header = json.dumps(
        {"image_proj.proj.weight": {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return str(path)


def test_a_controlnet_and_a_picture_go_with_the_job_and_with_refine(enabled, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_look", lambda name: True)
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "config.json").write_text("{}")
    shows, cup = adapter_file(tmp_path / "ip-adapter_sd15.safetensors"), tmp_path / "cup.png"
    enabled.model, enabled.prompt = "SDXL_BASE", "a red mug"
    for path in (tmp_path / "depth" / "config.json", shows):
        bpy.ops.dreamflow.add_lora(filepath=str(path))
    assert "picture" in main().props and not bpy.ops.dreamflow.generate.poll()
    assert loras.cannot_use_reason(enabled.loras) == "Choose the picture that the IP-Adapter shows"
    cup.write_bytes(b"")
    enabled.loras[1].picture, enabled.loras[1].weight = str(cup), 0.5
    assert bpy.ops.dreamflow.generate.poll()
    job = ops_generate.make_job(enabled)
    assert job.control == (f"{tmp_path / 'depth'}:1",) and job.lora == ()
    assert (job.image, job.image_adapter) == (f"{cup}:0.5", shows)
    jobs.get_store().put(replace(Entry(job, state="finished"), ended=100.0))
    enabled.loras.clear()
    bpy.ops.dreamflow.use_settings(job_id=job.id)
    assert ops_generate.make_job(enabled).is_same(job)
    settings = bpy.context.scene.dreamflow_refine
    settings.model = "FOLDER"
    assert frozen(settings).beside["control"] == job.control and frozen(settings).beside["image"] == job.image
    settings.model = "SDXL"  # the refiner, which none of them is made for
    assert frozen(settings).beside == {}
    bpy.ops.dreamflow.add_lora(filepath=shows)
    assert "Only one IP-Adapter" in loras.cannot_use_reason(enabled.loras)


def test_a_picture_alone_is_an_imagedream_s(enabled, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_look", lambda name: True)
    cup, other = tmp_path / "cup.PNG", tmp_path / "other.webp"
    for path in (cup, other):
        path.write_bytes(b"")
    enabled.model, enabled.prompt = "FOLDER", "a red mug"
    addon.preferences().prior_folder = str(tmp_path)
    bpy.ops.dreamflow.add_lora(filepath=str(cup))
    assert "picture" not in main().props and bpy.ops.dreamflow.generate.poll()
    enabled.loras[0].weight = 0.75
    job = ops_generate.make_job(enabled)
    assert (job.image, job.image_adapter, job.control, job.lora) == (f"{cup}:0.75", "", (), ())
    jobs.get_store().put(replace(Entry(job, state="finished"), ended=100.0))
    enabled.loras.clear()
    bpy.ops.dreamflow.use_settings(job_id=job.id)
    assert ops_generate.make_job(enabled).is_same(job)
    bpy.ops.dreamflow.add_lora(filepath=str(other))
    assert loras.cannot_use_reason(enabled.loras).startswith("Only one picture can be shown")
    assert not bpy.ops.dreamflow.generate.poll()


def test_a_lora_that_is_gone_is_said_before_the_job(enabled, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_look", lambda name: True)
    clay = lora_file(tmp_path / "clay.safetensors", {})
    enabled.model = "STABLE_DIFFUSION"
    bpy.ops.dreamflow.add_lora(filepath=clay)
    assert bpy.ops.dreamflow.generate.poll() and "Add to prompt" not in main().buttons()
    Path(clay).unlink()
    loras._look.cache_clear()
    assert "Not there" in main().said() and not bpy.ops.dreamflow.generate.poll()
    with pytest.raises(RuntimeError, match="safetensors file"):
        bpy.ops.dreamflow.add_lora(filepath=str(tmp_path))


def test_a_model_of_ones_own_is_a_file_or_a_folder(enabled, tmp_path):
    enabled.model = "FOLDER"
    assert not bpy.ops.dreamflow.generate.poll() and "dreamflow.choose_model" in [
        n for n, *_ in main().operators
    ]
    folder, file = tmp_path / "é model", tmp_path / "sdxl.safetensors"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    file.write_bytes(b"")
    for given, taken in ((file, file), (f"{folder}/", folder), (folder / "model_index.json", folder)):
        bpy.ops.dreamflow.choose_model(filepath=str(given), setting="prior_folder")
        assert ops_generate.make_job(enabled).prior == str(taken) and bpy.ops.dreamflow.generate.poll()
    for wrong in (tmp_path, tmp_path / "gone.safetensors", tmp_path / "sd.ckpt"):
        with pytest.raises(RuntimeError, match="model_index"):
            bpy.ops.dreamflow.choose_model(filepath=str(wrong))
    assert addon.preferences().prior_folder == str(folder)


def test_menus_name_what_there_is_and_put_it_in(enabled):
    fake_layout = layout.Fake()
    prompt.DREAMFLOW_MT_things.draw(
        SimpleNamespace(layout=fake_layout, kind_or_colour="kind", refine=False), bpy.context
    )
    assert list(fake_layout.buttons()) == [kind.capitalize() for kind in models.known_kinds()]
    assert len(models.known_kinds()) >= 20 and "Snowman" in fake_layout.buttons()
    enabled.prompt = "a corgi"
    bpy.ops.dreamflow.put_word(kind="duck")
    bpy.ops.dreamflow.put_word(colour="blue")
    assert enabled.prompt == "a blue duck"


def test_weights_that_are_not_here_are_offered_at_once(enabled):
    enabled.model = "STABLE_DIFFUSION"
    drawn = main()
    said = drawn.said().replace("\n", " ")
    assert "Stable Diffusion is not on this machine" in said and "CreativeML Open RAIL++-M" in said
    assert "Fetch it (2.6 GB)" in drawn.buttons() and not bpy.ops.dreamflow.generate.poll()
    assert "Allow online access first" in said  # why the button is off
    findings.models[:] = [{"name": "sd", "folder": "/somewhere"}]
    assert "Fetch it (6.1 GB)" in main().buttons()
    enabled.refine = False
    assert bpy.ops.dreamflow.generate.poll()


def test_stable_diffusion_is_mvdream_where_that_is_here(enabled):
    enabled.model, enabled.prompt = "STABLE_DIFFUSION", "a castle"
    findings.models[:] = [{"name": name, "folder": "/somewhere"} for name in ("mvdream", "sdxl-refiner")]
    job = ops_generate.make_job(enabled)
    assert (job.prior, job.refiner) == ("mvdream", "sdxl-refiner") and not models.to_fetch(enabled)
    assert job.texturer == ""  # so the backend takes Stable Diffusion for the colours where it is here
    assert models.model_named("mvdream") == "STABLE_DIFFUSION"
    enabled.loras.add()  # which are for Stable Diffusion itself
    assert models.stable_diffusion(enabled) == models.to_fetch(enabled) == "sd"


def test_a_failure_shows_no_command_and_folds_away(enabled):
    job = ops_generate.make_job(enabled)
    todo = "Fetch it (2.6 GB): python -m backend models fetch sd. Or choose another one."
    jobs.problem = jobs.Problem(p.Failed("model", "Its weights are missing.", todo), Entry(job))
    assert "Or choose another one." in main().said() and "python" not in main().said()
    jobs.problem = jobs.Problem(p.Failed("input", "No such word."), Entry(job))
    assert "Retry" not in main().buttons() and "Change the prompt" in main().buttons()
    jobs.problem = jobs.Problem(p.Failed("model", "Its weights are missing.", todo), Entry(job), folded=True)
    assert "Its weights are missing." in main().texts and "Copy report" not in main().buttons()


def test_one_progress_and_buttons_that_stay(enabled, monkeypatch):
    now = running(enabled)
    before = main()
    monkeypatch.setattr(pictures, "icon", lambda name: 7)
    after = main()
    assert (
        (before.icons, after.icons) == ([0], [7])
        and after.buttons() == before.buttons()
        and len(after.bars) == 1
    )
    now.hear(p.Started("texture", 10))
    assert main().bars[0][0] == round(now.whole(), 2) > 0.5
    assert not any("Loss" in text for text in main().texts)
    addon.preferences().picture_size = 0
    assert main().icons == []


@pytest.mark.parametrize(
    ("width", "scale", "language"),
    [(*width, language) for width in WIDTHS for language in ("en", "de")]
    + [(*WIDTHS[0], language) for language in ("es", "fr", "ja", "zh")],
)
def test_no_sentence_is_cut(enabled, monkeypatch, tmp_path, width, scale, language):
    """At a scale of 200 %, a region of the same width has half the room. bpy as a module has no languages: a table."""
    fits = width / scale
    if language != "en":
        table = translations.read(language)
        monkeypatch.setattr(layout.Fake, "language", table)
        for module in (candidates, history, parts, problems, prompt, sidebar, ui_loras, ui_refine, ui_setup):
            monkeypatch.setattr(module, "translated", lambda text, context="": table.get(text, text))
    monkeypatch.setattr(parts, "_width", lambda context: parts._dialog or fits)
    drawings = []
    for text in ("a red mug", "a wooden sofa", "a big red cup"):
        enabled.prompt = text
        drawings.append(main())
    job = ops_generate.make_job(enabled)
    enabled.model = "FOLDER"
    glaze = lora_file(tmp_path / "glaze.safetensors", {"modelspec.trigger_phrase": "blue " * 30})
    shows = adapter_file(tmp_path / "ip-adapter_sd15.safetensors")
    said = {"lora": (glaze, "/gone.safetensors"), "image": "/gone.png", "image_adapter": shows}
    set_beside(enabled, replace(job, **said))
    for enabled.active_lora in range(3):
        drawings.append(main())
    enabled.model = "STABLE_DIFFUSION"
    bpy.context.scene.dreamflow_refine.model = "SDXL"
    bpy.ops.mesh.primitive_cube_add()
    drawings += [main(), layout.draw(ui_refine.DREAMFLOW_PT_refine)]
    enabled.model = "BUILT_IN"
    enabled.prompt = "a red mug"
    running(enabled).warn("The scene was empty. Trying another seed, 2 of 3.")
    failed = p.Failed("memory", "There is not enough memory for this job.", "Close other programs.")
    jobs.problem = jobs.Problem(failed, Entry(ops_generate.make_job(enabled)))
    drawings.append(main())
    for state in ("failed", "cancelled", "finished"):
        ended = Entry(ops_generate.make_job(enabled), state=state, error=failed, note="61 %", seconds=99.0)
        jobs.get_store().put(replace(ended, ended=100.0))
    drawings.append(layout.draw(history.DREAMFLOW_PT_history))
    jobs.get_store().put(Entry(ops_generate.make_job(enabled), {CANDIDATE: "a"}, state="candidate"))
    drawings.append(main())
    assert "dreamflow.choose_candidate" in [name for name, *_ in drawings[-1].operators]
    room = max(60.0, fits - parts.MARGINS)

    def button(text):
        return parts.ICON + (parts.measure(text) + 8 if text else 0)

    cut = [text for drawn in drawings for text in drawn.cut(button, room + 20)]
    assert cut == []  # a button's own edges are narrower than a line's
    for drawn in drawings:
        assert [text for text in drawn.texts if parts.measure(text) > room and "…" not in text] == []
    for draw in (ui_refine.draw_dialog, prompt.draw_dialog):
        drawn = layout.Fake()
        with parts.in_dialog(parts.DIALOG):
            draw(drawn, bpy.context)
        assert [text for text in drawn.texts if parts.measure(text) > parts.DIALOG - parts.MARGINS] == []
    drawn = layout.Fake()
    licence = "A licence whose name is so long that it needs a line of its own and more"
    findings.models[:] = [{"name": "sd", "title": "SD", "size": 2.6e9, "licence": licence}]
    ui_setup.draw_preferences(drawn, addon.preferences())
    assert "dreamflow.open_credits" in [name for name, *_ in drawn.operators] and addon.CREDITS.is_file()
    assert licence in " ".join(drawn.texts)
    assert [text for text in drawn.texts if parts.measure(text) > room and "…" not in text] == []


@pytest.mark.parametrize(("width", "expected"), [(190, "column"), (291, "row")])
def test_buttons_stand_below_each_other_where_a_text_would_be_cut(monkeypatch, width, expected):
    monkeypatch.setattr(parts, "_width", lambda context: width)
    shown = SimpleNamespace(row=lambda align: "row", column=lambda align: "column")
    assert parts.button_row(shown, bpy.context, "Pause", "Stop here") == expected


def test_blenders_menus_lead_here_and_back(enabled):
    drawn = layout.Fake()
    menus.draw_add(SimpleNamespace(layout=drawn), bpy.context)
    menus.draw_object(SimpleNamespace(layout=drawn), bpy.context)
    assert drawn.buttons() == ["DreamFlow"] and drawn.menus == ["DREAMFLOW_MT_object"]
    menus.DREAMFLOW_MT_object.draw(SimpleNamespace(layout=drawn), bpy.context)
    assert {"Refine", "Apply", "Discard", "Mark as asset"} <= set(drawn.buttons())
    assert menus.draw_add in bpy.types.VIEW3D_MT_mesh_add._dyn_ui_initialize()
    keymap = bpy.context.window_manager.keyconfigs.addon.keymaps["3D View"]
    assert "dreamflow.add_object" in [item.idname for item in keymap.keymap_items]


def test_every_operator_is_described_and_fails_politely(enabled, monkeypatch):
    """Called without what it needs, as from the search, each says what to do."""
    classes = [cls for cls in dreamflow_blender.registration.CLASSES if issubclass(cls, bpy.types.Operator)]
    for cls in classes:
        assert cls.bl_description and cls.bl_label and "INTERNAL" not in cls.bl_options
    drawn = layout.Fake()  # what F3 looks through: menus
    for draw in (menus.draw_add, *(menu.draw for menu in menus.CLASSES)):
        draw(SimpleNamespace(layout=drawn), bpy.context)
    found = {name for name, _, _ in drawn.operators}
    monkeypatch.setattr(addon, "offline_reason", lambda: "")
    for name in sorted({cls.bl_idname for cls in classes} - found - {"dreamflow.refine_built_in"}):
        with pytest.raises(RuntimeError, match="Choose a"):
            getattr(bpy.ops.dreamflow, name.partition(".")[2])()


def test_history_has_pages_reasons_favourites_and_a_filter(enabled):
    store, shown = jobs.get_store(), bpy.context.window_manager.dreamflow_history
    for number in range(history.ROWS + 2):
        enabled.prompt, enabled.seed = ("a red mug" if number else "a blue duck"), number
        failed = p.Failed("disk", "The disk is full.") if number == 0 else None
        state = "failed" if failed else "finished"
        note = "61 %" if number == 1 else ""
        ended = Entry(
            ops_generate.make_job(enabled), state=state, error=failed, note=note, added=1.0 + number
        )
        store.put(replace(ended, ended=100.0 + number))
    drawn = layout.draw(history.DREAMFLOW_PT_history)
    assert drawn.texts.count("a red mug") == history.ROWS and "1 of 2" in drawn.texts
    shown.page = 2
    said = layout.draw(history.DREAMFLOW_PT_history).said().replace("\n", " ")
    assert "The disk is full." in said and "stopped early at 61 %" in said and "2 of 2" in said
    shown.find = "duck BLUE"
    drawn = layout.draw(history.DREAMFLOW_PT_history)
    assert "a blue duck" in drawn.texts and "a red mug" not in drawn.texts
    assert "Use this prompt" in drawn.buttons()
    shown.find, shown.starred = "", True
    assert "No job matches." in layout.draw(history.DREAMFLOW_PT_history).texts
    bpy.ops.dreamflow.star_job(job_id=store.history()[0].job.id)
    store._seen = None  # read again from the disk
    assert store.history()[0].star and layout.draw(history.DREAMFLOW_PT_history).texts.count("a red mug") == 1
    shown.starred = False


def test_what_the_last_five_took_is_what_the_next_will_take():
    job = p.Job("a", "generate", "a mug", "nowhere")
    took = (60.0, 0.0, 120.0, 120.0, 120.0, 180.0, 9999.0)  # 0: it is not known
    past = [Entry(job, seconds=seconds, figures={"memory_gb": 2.5}) for seconds in took]
    assert estimates.in_words(past) == estimates.in_words(past, 1.0, 1.0) == "about 2 min, 2.5 GB of memory"
    assert estimates.in_words([], 30.0) == "about 30 s" and estimates.in_words([]) == ""
