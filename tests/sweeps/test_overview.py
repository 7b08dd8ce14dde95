# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_jax.config import SamplesConfig
from dreambooth_jax.config.parse import key_types
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError
from dreambooth_jax.members import groups
from dreambooth_jax.members.axes import Axis, Choice
from dreambooth_jax.sweeps.announce import announcement
from dreambooth_jax.sweeps.grid import DRAWN, grid_of
from dreambooth_jax.sweeps.jobs import stages_of
from dreambooth_jax.sweeps.overview import interval, write_overview
from dreambooth_jax.sweeps.pictures import Prompt, heading
from dreambooth_jax.sweeps.run import left_of
from dreambooth_jax.sweeps.scores import SCORES, Score, scores_of
from dreambooth_jax.sweeps.status import is_done, say_error, status_of
from dreambooth_jax.sweeps.sweep import read_sweep
from tests.sweeps.folders import finish, planned

DOCS = Path(__file__).parents[2] / "docs"
SWEPT = ["--optimizer.learning_rate=1e-6,3e-6", "--train.seed=0,1,2", "--adapter.kind=lora"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "s"
    sweep, members = planned(folder, *SWEPT)
    sweep.write(members)
    return sweep, members


@pytest.fixture
def six(plan):
    """Six members; the second rate's losses are lower by 0.25."""
    sweep, members = plan
    shutil.rmtree(sweep.folder / "members", ignore_errors=True)
    for number, member in enumerate(members):
        finish(member, loss=1.0 + number % 3 - 0.25 * (number // 3))
    return sweep, members


def test_a_sweep_is_read_as_it_was_written(six):
    sweep, members = six
    assert read_sweep(sweep.folder) == sweep
    assert [sweep.member(member.name) for member in members] == list(members)


def test_the_table_has_scores_the_best_and_effects_with_intervals(six):
    sweep, _ = six
    text = write_overview(sweep)
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in text.splitlines() if line[:1].isdigit()}
    assert rows["3e-6", "0"] == ["800", "0.75", "best"]
    said = json.loads((sweep.folder / "overview.json").read_text())
    effect = said["effects"]["optimizer.learning_rate"]["3e-6"]
    assert (effect["difference"], effect["difference_half_width"], effect["blocks"]) == (-0.25, 0.0, 3)
    assert said["compared_by"] == "training_loss"
    assert said["picture"] is None
    assert "-0.25 ± 0" in (sweep.folder / "overview.md").read_text()


def test_members_are_compared_by_validation_where_all_have_it(six):
    sweep, members = six
    for member in members[:-1]:
        finish(member, loss=1.0, validation_loss=0.5)
    write_overview(sweep)
    assert json.loads((sweep.folder / "overview.json").read_text())["compared_by"] == "training_loss"
    finish(members[-1], loss=2.0, validation_loss=0.1)
    assert "best" in next(line for line in write_overview(sweep).splitlines() if "0.1" in line)


def test_members_are_compared_by_what_evaluation_measured_on_the_way(six):
    """Of which more may be better; the validation loss goes before, the training loss behind."""
    sweep, members = six
    for number, member in enumerate(members):
        finish(member, loss=1.0 - number, scores={"scores/dino": 0.1 * number, "scores/pres": 0.2})
    text = write_overview(sweep)
    said = json.loads((sweep.folder / "overview.json").read_text())
    assert said["compared_by"] == "dino"
    assert said["members"][5]["scores"] == {"dino": 0.5, "pres": 0.2, "training_loss": -4.0}
    assert [line.split()[:2] for line in text.splitlines() if line.endswith("best")] == [["3e-6", "2"]]
    for member in members:
        finish(member, loss=1.0, validation_loss=0.5, scores={"scores/dino": 0.1})
    write_overview(sweep)
    assert json.loads((sweep.folder / "overview.json").read_text())["compared_by"] == "validation_loss"


def test_a_later_score_is_a_line(six, monkeypatch):
    sweep, _ = six
    monkeypatch.setitem(SCORES, "letters", Score(lambda folder: float(len(folder.name))))
    assert scores_of(sweep.run_dir(sweep.cells[0].name))["letters"] == len(sweep.cells[0].name)
    assert "letters" in write_overview(sweep)


def test_who_failed_or_is_not_finished_is_said(six):
    sweep, members = six
    say_error(sweep.run_dir(members[0].name), "loss is nan at step 3")
    (sweep.run_dir(members[1].name) / "exported.json").unlink()
    text = write_overview(sweep)
    assert "loss is nan at step 3" in text
    assert "not finished" in text
    assert status_of(sweep.run_dir(members[0].name)) == (800, False, "loss is nan at step 3")
    assert json.loads((sweep.folder / "overview.json").read_text())["effects"]["train.seed"]["1"]["blocks"] == 1


def changed(member, **settings):
    """The member with other settings of its groups."""
    groups_ = {name: replace(getattr(member.config, name), **values) for name, values in settings.items()}
    return replace(member, config=replace(member.config, **groups_))


def test_who_is_done_is_known_and_another_run_refused(six):
    _, (member, *_) = six
    assert is_done(member)
    assert not is_done(changed(member, train={"steps": 900}))  # goes on
    assert not is_done(changed(member, data={"instance_images": "others"}))  # the run itself looks at the photos
    assert is_done(changed(member, prior={"class_images": "elsewhere"}))
    for other in (changed(member, adapter={"rank": 3}), changed(member, optimizer={"learning_rate": 1.0})):
        with pytest.raises(InputError, match="^learning_rate-1e-6_seed-0: cannot resume at step 800: .* was .* and is"):
            is_done(other)
    with pytest.raises(InputError, match="this run has taken 800 steps already"):
        is_done(changed(member, train={"steps": 7}))


def test_class_images_come_first_once_for_all_who_share_them(tmp_path):
    _, members = planned(tmp_path, "--adapter.kind=lora", "--data.class_noun=dog,cat", "--prior.num_images=20,40")
    images, trained, shown = stages_of(groups(members))
    assert [members[[one.name for one in members].index(job.members[0])].config.prior.num_images for job in images] == [
        40,
        40,
    ]
    assert sum(len(job.members) for job in trained) == len(members) == 4
    assert [job.kind for job in shown] == ["overview"]
    _, members = planned(tmp_path, "--train.seed=0,1", "--prior.weight=0")
    assert [stage[0].kind for stage in stages_of(groups(members))] == ["train", "overview"]


def test_the_announcement_says_what_shares_a_program_and_what_does_not(tmp_path):
    _, members = planned(tmp_path, "--adapter.kind=lora", "--train.seed=0,1", "--adapter.rank=4,8")
    text = announcement(members, groups(members), grid="steps=30,50")
    assert "4 trainings; 3200 steps in 2 groups are to be done" in text
    assert "group 0: 2 members of one program" in text
    assert "groups differ in adapter.rank" in text
    assert "steps=30,50 are drawn at the end, without more training" in text
    text = announcement(members, groups(members[:3]))
    assert "of which 1 are done" in text
    _, members = planned(tmp_path, "--train.seed=0,1")
    alone = "one by one, since each has a copy of the weights of its own (adapter.kind=full): seed-0, seed-1"
    assert alone in announcement(members, groups(members))
    _, members = planned(tmp_path, "--adapter.kind=lora", "--train.seed=0,1", "--data.buckets=1,4")
    text = announcement(members, groups(members))
    assert "several sizes make steps of several shapes (data.buckets=4): seed-0_buckets-4, seed-1_buckets-4" in text
    assert "group 0: 2 members of one program: seed-0_buckets-1, seed-1_buckets-1" in text
    assert "copy of the weights" not in text


def test_groups_have_so_many_members_at_most_whoever_is_done(six):
    _, members = six
    for member in (members[0], members[4]):
        shutil.rmtree(member.config.run_dir)
    names = [member.name for member in members]
    assert [[one.name for one in group] for group in left_of(members)] == [[names[0], names[4]]]
    assert [[one.name for one in group] for group in left_of(members, at_once=4)] == [[names[0]], [names[4]]]
    with pytest.raises(InputError, match="--at_once is 0"):
        left_of(members, at_once=0)


def test_settings_of_sampling_are_drawn_not_trained(tmp_path):
    sweep, members = planned(tmp_path, "--train.seed=0,1", "--samples.steps=30,50", "--samples.sampler=ddim,DPM++ 2M")
    assert len(members) == 2
    assert sweep.grid == "steps=30,50 'sampler=ddim,DPM++ 2M'"
    assert grid_of([]) == ("", [])
    said = (DOCS / "sweeps.md").read_text()
    for name in key_types(SamplesConfig):
        key, values = f"samples.{name}", [Choice(text, (f"samples.{name}={text}",)) for text in ("1", "2")]
        if name not in DRAWN:
            assert f"`{name}`" in said.replace("samples.", "")
            assert grid_of([Axis(key, tuple(values))]) == ("", [Axis(key, tuple(values))])
    with pytest.raises(InputError, match="steps = 0"):
        planned(tmp_path, "--samples.steps=0,1")


@pytest.mark.parametrize(
    ("mean", "half_width", "sign", "said"),
    [
        (-0.006333, 0.0331, "+", "-0.006 ± 0.033"),
        (0.4129041, 0.0049, "", "0.4129 ± 0.0049"),
        (12345.6, 120.0, "", "12346 ± 120"),
        (0.4129041, None, "+", "+0.4129"),
        (0.4129041, 0.0, "", "0.4129 ± 0"),
    ],
)
def test_a_mean_has_the_digits_that_its_interval_gives_it(mean, half_width, sign, said):
    assert interval(mean, half_width, sign) == said


def test_prompts_above_pictures_have_the_words_that_all_members_share():
    dogs = [Subject(identifier=word, class_noun="dog") for word in ("sks", "zwx")]
    templates = ["a {identifier} {class_noun}", "a {class_noun} here"]

    def headings(words, syntax):
        return [heading(Prompt(template, syntax), words) for template in templates]

    assert headings(dogs[:1] * 2, "plain") == ["a sks dog", "a dog here"]
    assert headings(dogs, "plain") == ["a <identifier> dog", "a dog here"]
    two = [dogs[0], Subject(identifier="sks", class_noun="cat")]
    assert headings(two, "a1111") == ["a sks <class noun>", "a <class noun> here"]
