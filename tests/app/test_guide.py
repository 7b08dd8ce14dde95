# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Drawing by a picture on the page: networks that are offered, and what ``sample`` is told of them."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.app.limits import DEMO
from dreambooth_jax.app.networks import networks_of
from dreambooth_jax.app.requests.draw import Drawing, draw
from dreambooth_jax.app.requests.guide import Guiding
from dreambooth_jax.app.requests.start import Sent
from dreambooth_jax.cli import main
from dreambooth_jax.cli.controls import read_control
from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.sample import SAMPLE
from dreambooth_jax.data.control_maps import MAPS
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.ours import KEYWORD
from dreambooth_jax.weights.files import Leaf, write_safetensors

UNET = Path(__file__).parents[2] / "dreambooth_jax" / "embedded" / "unet" / "config.json"
ASKED = {"source": "quickstart", "prompt": "a dog"}


def png(width, height):
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = png(64, 64)
GUIDING = Guiding(network="edges", picture=PICTURE)


@pytest.fixture
def places(tmp_path):
    """A ControlNet, a T2I-Adapter and an IP-Adapter, as far as one sees which is which."""
    for name, kind in {"edges": "ControlNetModel", "lines": "T2IAdapter", "other": "UNet2DConditionModel"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"_class_name": kind}))
    bias = np.zeros(4, np.float32)
    leaf = Leaf(shape=bias.shape, dtype=bias.dtype, load=lambda: bias)
    write_safetensors(tmp_path / "face.safetensors", {"image_proj.proj.bias": leaf})
    return tmp_path


@pytest.fixture
def desk(desk, places):
    """That offers them."""
    controls = [f"edges={places / 'edges'}", str(places / "lines"), str(places / "face.safetensors")]
    return replace(desk, networks=networks_of(controls, pictures=desk.folder))


def call_of(job):
    """As ``sample`` reads the words of a job."""
    return read_call(SAMPLE, job.words[1:]).settings


def controls_of(job):
    """As it reads what guides."""
    return [read_control(text, tuple(MAPS)) for text in call_of(job).control]


def size_of(file):
    with Image.open(file) as image:
        return image.size


def test_networks_are_what_the_server_offers(desk, places):
    assert {name: one.lies for name, one in desk.networks.items()} == {"edges": True, "lines": True, "face": False}
    assert desk.networks["edges"].path == str(places / "edges")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (["a={}/edges", "a={}/lines"], "name of its own"),
        (["={}/edges"], "NAME=CONTROL"),
        (["a={}/nowhere"], "nowhere"),
        (["a={}/other"], "UNet2DConditionModel"),
        (["a={}:1"], "no colon"),
        (["a=canny"], "no name of a map"),
    ],
)
def test_what_is_no_network_is_not_offered(told, why, places):
    with pytest.raises(InputError, match=f"^controls: .*{why}") as error:
        networks_of([text.format(places) for text in told], pictures=places)
    assert "\n" not in str(error.value)


def test_a_page_that_cannot_name_its_pictures_offers_no_network(places):
    with pytest.raises(InputError, match="no colon"):
        networks_of([str(places / "edges")], pictures=places / "a:b")


def test_what_is_told_is_what_sample_reads(desk, places):
    told = {"map": "canny", "scale": 0.85, "start": 0.1, "end": 0.7, "guess": True}
    guides = [Guiding(network="edges", picture=PICTURE, **told), Guiding(network="face", picture=png(40, 40))]
    (job,) = draw(desk, "ada", Drawing(**ASKED, guides=guides))
    edges, face = controls_of(job)
    assert edges._replace(picture="") == (str(places / "edges"), "", "canny", True, 0.85, 0.1, 0.7)
    assert face._replace(picture="") == (str(places / "face.safetensors"), "", None, False, 1.0, 0.0, 1.0)
    assert all(Path(one.picture).is_relative_to(desk.place("ada")) for one in (edges, face))
    np.testing.assert_array_equal(Image.open(edges.picture), Image.open(io.BytesIO(PICTURE)))


@pytest.mark.parametrize("name", MAPS)
def test_every_map_of_the_command_line_may_be_made(name, desk):
    (job,) = draw(desk, "ada", Drawing(**ASKED, guides=[replace(GUIDING, map=name)]))
    assert controls_of(job)[0].map == name


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [
        ({}, (48, 88)),  # its shape, with the area of 64 x 64
        ({"width": 40}, (40, 80)),
        ({"height": 80}, (40, 80)),
        ({"width": 72, "height": 64}, (72, 64)),
    ],
    ids=str,
)
def test_what_is_drawn_has_the_shape_of_the_first_map(settings, drawn, desk):
    guides = [Guiding(network="face", picture=PICTURE), replace(GUIDING, picture=png(100, 200))]
    (job,) = draw(desk, "ada", Drawing(**ASKED, settings=settings, guides=guides))
    options = call_of(job)
    assert (options.width, options.height) == drawn
    face, edges = controls_of(job)
    assert size_of(edges.picture) == drawn
    assert size_of(face.picture) == (64, 64)


def test_a_picture_to_begin_with_says_the_size_and_one_that_lies_not_does_not(desk):
    guides = [replace(GUIDING, picture=png(100, 400))]
    (job,) = draw(desk, "ada", Drawing(**ASKED, start=Sent(PICTURE), guides=guides))
    assert (call_of(job).width, call_of(job).height) == (None, None)
    assert size_of(call_of(job).image) == (64, 64)
    (job,) = draw(desk, "ada", Drawing(**ASKED, guides=[Guiding(network="face", picture=png(100, 400))]))
    assert (call_of(job).width, call_of(job).height) == (64, 64)  # as samples of a training are


def test_a_matrix_is_guided(desk):
    (job,) = draw(desk, "ada", Drawing(**ASKED, guides=[GUIDING], varied=[("guidance_scale", "1, 3")]))
    assert controls_of(job)[0].network == desk.networks["edges"].path
    assert call_of(job).grid


@pytest.mark.parametrize(
    "changed",
    [
        {"network": "", "map": "canny"},
        {"network": "/etc"},
        {"network": "../edges"},
        {"network": "x" * 99},
        {"picture": None},
        {"picture": b"no picture"},
        {"map": "../canny"},
        {"map": "guess"},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"start": -0.1},
        {"start": 0.5, "end": 0.5},
        {"end": 1.1},
        {"end": float("nan")},
    ],
    ids=str,
)
def test_guides_that_are_refused(changed, desk):
    with pytest.raises(InputError) as error:
        draw(desk, "ada", Drawing(**ASKED, guides=[replace(GUIDING, **changed)]))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
    assert not desk.place("ada").exists()


def test_a_page_that_offers_none_says_so(desk):
    with pytest.raises(InputError, match="none is"):
        draw(replace(desk, networks={}), "ada", Drawing(**ASKED, guides=[GUIDING]))
    with pytest.raises(InputError, match="at most 2"):
        draw(desk, "ada", Drawing(**ASKED, guides=[GUIDING] * 3))


@pytest.mark.parametrize(
    ("picture", "settings"),
    [
        (bytes(11_000_000), {}),
        (png(8, 800), {"width": 16}),  # 16 x 1600
        (png(8, 800), {"width": 64, "height": 512, "hires_scale": 2.0}),
    ],
    ids=["large file", "long side", "long second pass"],
)
def test_strangers_are_guided_within_bounds(picture, settings, desk):
    guarded = replace(desk, limits=DEMO)
    for asked in ({"guides": [replace(GUIDING, picture=picture)]}, {"start": Sent(picture)}):
        with pytest.raises(InputError):
            draw(guarded, "ada", Drawing(**ASKED, count=1, settings={"steps": 5, **settings}, **asked))
    assert not desk.place("ada").exists()
    settings = {"steps": 5, "hires_scale": 3.0}
    (job,) = draw(guarded, "ada", Drawing(**ASKED, settings=settings, guides=[replace(GUIDING, picture=png(8, 800))]))
    assert call_of(job).height == 168  # three times as much is within 512


@pytest.mark.slow
@pytest.mark.parity
def test_what_is_asked_for_is_drawn_along_the_picture(desk, tmp_path, capsys):
    """A job of the page, with a tiny ControlNet; one that does not fit the model ends it in a line."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(0)
    own = json.loads(UNET.read_text())
    names = ("attention_head_dim", "block_out_channels", "down_block_types", "layers_per_block", "norm_num_groups")
    shape = {name: own[name] for name in (*names, "use_linear_projection")}
    for name, width in {"fits": own["cross_attention_dim"], "misfits": 32}.items():
        net = diffusers.ControlNetModel(
            **shape, cross_attention_dim=width, conditioning_embedding_out_channels=(8, 16, 16)
        )
        for leaf in net.parameters():
            torch.nn.init.normal_(leaf, std=0.2)
        net.save_pretrained(tmp_path / name)
    networks = networks_of([str(tmp_path / "fits"), str(tmp_path / "misfits")], pictures=desk.folder)
    desk = replace(desk, networks=networks)
    drawn = {}
    for scale in (0.0, 1.0):
        asked = Guiding(network="fits", picture=PICTURE, map="canny", scale=scale)
        (job,) = draw(desk, "ada", Drawing(**ASKED, count=1, settings={"steps": 2}, guides=[asked]))
        assert main(list(job.words)) == 0
        image = Image.open(Path(job.folder) / "000-seed0.png")
        about = json.loads(image.text[KEYWORD])
        assert about["control"] == [{"model": str(tmp_path / "fits"), "scale": scale, "start": 0.0, "end": 1.0}]
        drawn[scale] = np.asarray(image)
    assert (drawn[0.0] != drawn[1.0]).mean() > 0.5
    (job,) = draw(desk, "ada", Drawing(**ASKED, guides=[Guiding(network="misfits", picture=PICTURE)]))
    assert main(list(job.words)) != 0
    assert "misfits does not fit" in capsys.readouterr().err.splitlines()[-1]
