# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Tables, texts, and the report."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.assessment.elsewhere import groups_in
from dreambooth_jax.assessment.report import as_html
from dreambooth_jax.assessment.result import Column, Measured, table_of
from dreambooth_jax.assessment.sources import read_sources
from dreambooth_jax.assessment.subjects import Sitter, read_prompts, sitters_of
from dreambooth_jax.assessment.table import as_dict, as_text
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.score_file import ScoreFile, score
from dreambooth_jax.evaluation.scores import MEASURES, Group, Material, Towers
from dreambooth_jax.evaluation.towers import DinoTower
from dreambooth_jax.options import EvaluateOptions
from dreambooth_jax.prompts.named import NAMED
from tests.runs import MODEL, draw_photos

R = np.random.default_rng(0)


class Colours(DinoTower):
    """A tower whose features are mean colours."""

    fingerprint = "colours"

    def __init__(self):
        object.__setattr__(self, "asked", [])

    def pictures(self, pictures):
        self.asked.extend(pictures)
        return np.stack([picture.mean((0, 1)) for picture in pictures])


def plain(*colour):
    return np.full((9, 7, 3), colour, np.uint8)


def sitter(identifier="sks", templates=("a {identifier} {class_noun} in the snow",)):
    words = Subject(identifier=identifier, class_noun="dog")
    return Sitter(name="one", words=words, photos=(), templates=templates, class_prompt="a dog", other=())


RED, GREEN, BLUE = plain(255, 0, 0), plain(0, 255, 0), plain(0, 0, 255)


def test_measures_by_a_tower_that_can_be_computed_in_the_head(tmp_path):
    groups = {
        "subject": [Group("a", "a", [RED, RED]), Group("b", "b", [RED, GREEN])],
        "class": [Group("class prompt", "a dog", [GREEN, BLUE])],
        "other": [Group("c", "c", [RED, GREEN], before=[RED, BLUE])],
    }
    found = score(
        Material(photos=[RED], groups=groups),
        Towers(dino=Colours()),
        subject="one",
        file=ScoreFile(tmp_path / "s.jsonl"),
    )
    assert found == {
        "DINO": {"a": [1, 1], "b": [1, 0]},
        "PRES": {"class prompt": [0, 0]},
        "drift": {"c": [0, 0.5]},
    }


def test_what_is_known_is_not_measured_again_and_what_has_changed_is(tmp_path):
    tower, file = Colours(), tmp_path / "scores.jsonl"

    def scored(*groups, photos=(RED,)):
        before = len(tower.asked)
        material = Material(photos=list(photos), groups={"subject": list(groups)})
        score(material, Towers(dino=tower), subject="one", file=ScoreFile(file))
        return len(tower.asked) - before

    first, second = Group("a", "a", [RED, GREEN]), Group("b", "b", [BLUE])
    assert scored(first) == 2 + 1
    assert scored(first) == 0
    assert scored(first, second) == 1 + 1
    assert scored(first._replace(pictures=[RED, BLUE])) == 2 + 1
    assert scored(first, photos=[GREEN]) == 2 + 1
    with file.open("a") as lines:
        lines.write('{"measure": "DI')  # killed in the middle of a line
    assert scored(first, second) == 0
    assert scored(first._replace(pictures=[GREEN])) == 1 + 1
    assert scored(first._replace(pictures=[GREEN])) == 0


def test_a_table_has_a_row_for_each_subject_and_a_column_for_each_prompt():
    nan = np.nan
    found = table_of([{"a": [1.0, 2.0], "b": [None, 4.0]}, {"b": [6.0], "c": []}])
    np.testing.assert_array_equal(found, [[1.5, 4, nan], [nan, 6, nan]])
    np.testing.assert_array_equal(table_of([{"a": [1.0, None, 3.0]}]), [[1, nan, 3]])  # one prompt: its pictures
    np.testing.assert_array_equal(table_of([{"a": [1.0, 3.0]}], of_pairs=True), [[2]])
    assert table_of([{}]).size == 0


def test_the_identifier_is_taken_out_of_prompts():
    one = sitter()
    assert one.prompts == ["a sks dog in the snow"]
    assert one.without_identifier(one.templates[0]) == "a dog in the snow"
    assert one.without_identifier("a sks dog, and sksx") == "a dog, and sksx"
    two = sitter(identifier="olis zwx")
    assert two.without_identifier("a olis zwx dog and olis") == "a dog and olis"


def column(name, *subjects):
    photos, groups = [RED], {"subject": [Group("a <b>", "a <b>", [RED, GREEN])], "class": [Group("c", "c", [BLUE])]}
    return Column(
        name=name,
        subjects=tuple(
            Measured(name=f"{name}-{n}", photos=photos, groups=groups, scores=one) for n, one in enumerate(subjects)
        ),
    )


def test_the_text_says_what_is_missing_and_what_gives_it():
    columns = [column(name, {"DINO": {"a": [0.5], "b": [0.7]}}) for name in ("first", "second")]
    lines = as_text(columns).splitlines()
    assert lines[0].split() == ["first", "second"]
    assert lines[1].startswith("DINO ↑")
    assert lines[1].count("0.600 [0.500, 0.700]") == 2
    assert any(line.startswith("CLIP-T ↑") and "no weights: evaluate.clip=" in line for line in lines)
    assert not any("recognised" in line for line in lines)  # nobody asked the judge
    assert max(map(len, lines)) < 110


class Page(HTMLParser):
    """Checks that what is opened is closed; knows all addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_report_is_one_sound_file_that_asks_no_network():
    columns = [
        column("one", {"DINO": {"a <b>": [0.5, 0.6]}, "CLIP-T": {"a <b>": [0.3, 0.4]}}),
        column("<two>", {"DINO": {"a <b>": [0.7, 0.9]}}, {"DINO": {"a <b>": [0.2, 0.1]}}),
    ]
    text = as_html(columns)
    page = Page(text)
    assert page.open == []
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "http" not in text
    assert {"<two>", "a <b>"} <= set(page.texts)
    assert text.count("<svg") == 3  # the plane, DINO and CLIP-T


def test_the_json_has_all_numbers():
    (source,) = as_dict([column("one", {"DINO": {"a": [0.5, None], "b": [0.7]}})])["sources"]
    assert json.loads(json.dumps(source)) == source
    assert source["scores"]["DINO"]["mean"] == pytest.approx(0.6)
    assert source["subjects"][0]["values"] == {"DINO": {"a": [0.5, None], "b": [0.7]}}


def test_pictures_are_of_the_prompt_that_they_are_called_after(tmp_path):
    templates = ("a {identifier} {class_noun}", "a red {identifier} {class_noun}")
    for name, colour in {"1-a": RED, "000-seed3": GREEN, "001_b": BLUE, "x": RED, "y": BLUE}.items():
        Image.fromarray(colour).save(tmp_path / f"{name}.png")
    (tmp_path / "x.txt").write_text("a sks dog")
    (tmp_path / "y.txt").write_text("a sks dog on the moon")
    first, second, third = groups_in(tmp_path, sitter(templates=templates))["subject"]
    assert [(one.prompt, one.text, len(one.pictures)) for one in (first, second, third)] == [
        (templates[0], "a dog", 2),
        (templates[1], "a red dog", 2),
        ("a sks dog on the moon", "a dog on the moon", 1),
    ]
    np.testing.assert_array_equal(first.pictures[0], GREEN)
    Image.fromarray(RED).save(tmp_path / "2-c.png")
    with pytest.raises(InputError, match=r"nothing says which prompt 2-c\.png is of: call it N-\.\.\., N from 0 to 1"):
        groups_in(tmp_path, sitter(templates=templates))


def test_what_a_place_is(tmp_path):
    for run in ("sweep/members/a", "sweep/members/b", "alone"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.yaml").write_text("")
    draw_photos(tmp_path / "pictures", 1)
    places = [str(tmp_path / name) for name in ("sweep", "alone", "pictures")]
    sweep, alone, pictures, model, hub = read_sources([*places, str(MODEL), "org/alone"])
    assert [run.name for run in sweep.runs] == ["a", "b"]
    assert [run.name for run in alone.runs] == ["alone"]
    assert pictures.pictures == tmp_path / "pictures"
    assert (model.model, hub.model) == (str(MODEL), "org/alone")
    assert len({one.name for one in (sweep, alone, pictures, model, hub)}) == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is no run, no folder of runs, no model, and has no pictures"):
        read_sources([str(tmp_path / "empty")])
    for place in ("nowhere", str(tmp_path / "nowhere"), str(tmp_path / "lost.safetensors")):
        with pytest.raises(InputError, match=f"^{place}: no such folder"):
            read_sources([place])


@pytest.mark.parametrize(
    ("noun", "model", "expected"),
    [
        ("dog", "some/model", "dreambooth-live"),
        ("corgi dog", "some/model", "dreambooth-live"),
        ("backpack", "some/model", "dreambooth-object"),
        ("dog", "embedded", "embedded"),
    ],
)
def test_which_prompts_are_asked(noun, model, expected, tmp_path):
    photos = draw_photos(tmp_path / "photos", 1)
    config = load_config(None, [f"data.instance_images={photos}", f"data.class_noun={noun}"])
    (one,) = sitters_of(config, EvaluateOptions(sources=("x",)), name="x", model=model)
    assert one.templates == NAMED[expected]
    assert one.class_prompt == f"a photo of a {noun}"
    assert one.other == NAMED["embedded-other" if model == "embedded" else "other"]


def test_all_lists_of_other_prompts_have_ten_and_no_subject():
    for name in ("other", "embedded-other"):
        assert len(set(NAMED[name])) == 10
        assert not any("{" in prompt for prompt in NAMED[name])


def test_what_is_wrong_is_said_in_a_line(tmp_path, capsys):
    with pytest.raises(InputError, match="dreambooth-lives"):
        read_prompts("prompts", "dreambooth-lives")
    draw_photos(tmp_path / "pictures", 1)
    assert main(["evaluate", str(tmp_path / "pictures"), f"out={tmp_path / 'out'}"]) == 2
    assert "give --photos=FOLDER" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "sources" in error
    assert main(["evaluate", str(tmp_path / "pictures"), f"evaluate.dino={tmp_path / 'pictures'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_measures_have_names_of_their_own():
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
