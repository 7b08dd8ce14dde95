# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Results -> docs/study.md, a figure for each experiment, and which claims hold."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from dreambooth_jax.evaluation.judge import Judge

from . import figures
from .claims import compare, concluded, summary, verdict
from .conditions import Claim, Condition, Experiment, Training
from .experiments import EXPERIMENTS
from .figures import Row
from .pair_report import section as pair_section
from .pairs import results as pair_results
from .runs import Study, read_results
from .scores import COSTS, METRICS, PICTURES
from .subjects import DRAWN, spoken

_STRIP = f"the {DRAWN} on white, blue, red, yellow, on the grass, in the snow, left, at the bottom; then the class"
_CHOSEN = """\
*After*. Judge, scores and settings were chosen with an eye to results of these subjects: of all nine the learning rate,
of seven (not the teddy bear and the vintage tv) the rest. The score *leaked* was narrowed to the class prompt itself at
that time; what it left out is *elsewhere*.
"""
_CONFIRMED = """\
Subjects that nothing was chosen for: of each concept that is held out, a drawing by another designer, the first by
style. They were measured when model, judge and scores were final, at the higher rate, and once more when the base had
taken the lower one, because of the subjects above. Their judge was trained for them in the same way
({class_right_on_unseen_drawings:.0%} of unseen drawings, subjects {subject_right_in_unseen_scenes:.0%},
{taken_for_a_subject:.1%} of other drawings taken for one).
"""
_COSTS = """\
*Full* is the base, 400 steps at 3e-4. Low-rank methods train attention and feed-forward layers of both networks, 200
steps at 2e-3 (LiDB attention alone, at 1e-2; LoKr at 1.5e-2; LoRA with convolutions at 1e-3); textual inversion four
vectors, 400 steps at 1e-2, with no class pictures; pivotal tuning these vectors for 100 steps, then LoRA of rank 16 for
200. Rates were chosen on the alien alone (LoKr's also on the backpack). *seconds* are a core's, of all steps but
without compiling: the processor's time, since the machine had much other work meanwhile, which wall time would count;
*seconds together* those of each of nine that one program trains, which most of the 27 runs of nine subjects with three
seeds were. *megabytes* are those of the files that a run ends with.
"""
_AGAINST = """
What differs from *{baseline}*, subject by subject, of the subjects that both have: the mean with its 95 % interval
(Student's t), in bold where zero is not in it.
"""
_FIT = """
Recognised in {recognised:.0%} or more, leaked in {leaked:.0%} or less, no slower than *{baseline}*: {named}.
The judge is more lenient than the eye: low-rank methods in half the steps draw rougher than full fine-tuning (below),
so LoRA with convolutions is the [quick start](../configs/quickstart.yaml) for 350 steps."""
_RECOGNISED, _LEAKED = 0.8, 0.1
_COMPARED = ("recognised", "fidelity", "prompt", "leaked", "drift", "seconds")

_HEAD = """\
# What DreamBooth does to the embedded model

Made by `python scripts/dreambooth_study.py`: {trainings} trainings, {rows} sampled sets of {pictures} pictures, seeds
{seeds}. Each condition is [`base.yaml`](../scripts/study/base.yaml), full fine-tuning, with the named thing changed.
From *Prior preservation* to *Class noun* it is changed at a learning rate of 1e-3, where what harms prompts shows; that
was the base's too, until *Learning rate and steps* was in. Numbers are mean ± standard deviation over n runs, of the
same subjects and seeds in all rows of a table that say the same n. None of the subjects was in the model's
pretraining: {names}.
The numbers of each run: [results.jsonl](study/results.jsonl).
{missing}
**Measured by** a [judge](../dreambooth_jax/evaluation/judge.py): a small network trained on composed pictures, in place
of the paper's DINO and CLIP. Of drawings that it never saw it names the class, one of {classes}, right
{class_right:.0%} of the time; subjects, in scenes that it never saw, {subject_right:.0%}; it takes {mistaken:.1%} of
other drawings for one.

| | |
|---|---|
| recognised ↑ | share of pictures of "a sks dog …" that the judge takes for the subject |
| fidelity ↑ | mean cosine similarity of these to the instance pictures (the paper's DINO); higher if those are few |
| prompt ↑ | share whose background, and place, are what the prompt says |
| leaked ↓ | share of pictures of "a dog", the class prompt, that the judge takes for the subject |
| elsewhere ↓ | the same for "a dog on a blue background" and so on, which no class image was made for |
| drift ↓ | mean cosine similarity of pictures of the class prompt to the instance pictures (the paper's PRES) |
| diversity ↑ | mean cosine distance between these (the paper's DIV) |
| class ↑ | share of these that the judge takes for the class |

## What holds

A claim that A has more of something than B is looked at subject by subject, each the mean over its seeds. It *holds* if
the 95 % interval of the mean difference A − B (Student's t) lies above zero, does *not* if below, and is *open* if zero
lies in it. The claims are the paper's (Ruiz et al. 2022) and those of three reports of people who trained Stable
Diffusion with it, on photographs of 512 pixels: that one does not hold here does not say that it is wrong there.

| claim | from | here | difference | subjects |
|---|---|---|---|---|
"""


def write(folder: Path, study: Study, *, confirmation: Study | None = None) -> None:
    """study.md and study/*.png, of the experiments whose conditions have all been trained for one subject at least; and
    beside the figures the numbers themselves.

    Args:
        folder: docs.
        study: what was measured.
        confirmation: the first experiment with subjects that nothing was chosen for.
    """
    pictures = folder / "study"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = read_results(study.results)
    text, sections = heading(rows, study.judge), ""
    for experiment in EXPERIMENTS:
        found = comparable(experiment, rows)
        if not all(found.values()):
            continue
        text += "".join(
            f"| {claim.text} | {claim.source} | {concluded(claim, found)} |\n" for claim in experiment.claims
        )
        figures.bars(pictures / f"{experiment.slug}.png", found)
        sections += section(experiment, found)
        if experiment.crossed:
            sections += by_subject(rows)
            sections += confirmed(confirmation, experiment) if confirmation else ""
        shown = pictures / f"{experiment.slug}_pictures.png"
        if drawn := strips_of(experiment, study, seeds=sorted({row["seed"] for row in rows})):
            figures.strips(shown, drawn, says=_STRIP)
        if shown.exists():  # perhaps of an earlier report: the pictures themselves are not kept
            sections += f"\n![Pictures of the {DRAWN}](study/{experiment.slug}_pictures.png)\n"
    sections += pair_section(read_results(pair_results(study)))
    (folder / "study.md").write_text(text + sections, encoding="utf-8")
    files = {"results": study.results, "pairs": pair_results(study)}
    files |= {"confirmation": confirmation.results} if confirmation else {}
    for name, file in files.items():
        if file.exists():
            shutil.copyfile(file, pictures / f"{name}.jsonl")


def heading(rows: Sequence[Row], judge: Judge) -> str:
    """All that comes before the claims."""
    untrained = Training(trained=False).key
    missing = [one.title.lower() for one in EXPERIMENTS if not all(comparable(one, rows).values())]
    return _HEAD.format(
        trainings=len({(row["training"], row["subject"], row["seed"]) for row in rows if row["training"] != untrained}),
        rows=len(rows),
        pictures=PICTURES,
        names=", ".join(sorted({spoken(row["subject"]) for row in rows})),
        seeds=", ".join(map(str, sorted({row["seed"] for row in rows}))),
        missing=f"\nNot run yet: {', '.join(missing)}.\n" if missing else "",
        class_right=judge.measured["class_right_on_unseen_drawings"],
        classes=judge.measured["classes"],
        subject_right=judge.measured["subject_right_in_unseen_scenes"],
        mistaken=judge.measured["taken_for_a_subject"],
    )


def by_subject(rows: Sequence[Row]) -> str:
    """A table of the base's run, a line for each subject."""
    return "\n".join(["\n### Subject by subject\n", _CHOSEN, *_of_each(rows)]) + "\n"


def confirmed(study: Study, experiment: Experiment) -> str:
    """The same experiment with the other subjects; nothing if it was not run."""
    rows = read_results(study.results)
    found = comparable(experiment, rows)
    if not all(found.values()):
        return ""
    lines = ["\n### Confirmation\n", _CONFIRMED.format(**study.judge.measured), *_columns()]
    lines += [_line(name, of_one) for name, of_one in found.items()]
    lines += ["\nAfter training, subject by subject:\n", *_of_each(rows)]
    return "\n".join(lines) + "\n"


def _of_each(rows: Sequence[Row]) -> list[str]:
    """A table of what the base does to each subject."""
    after = rows_of(Condition(name="after", training=Training()), rows)
    return _columns() + [
        _line(spoken(name), [row for row in after if row["subject"] == name])
        for name in sorted({row["subject"] for row in after})
    ]


def strips_of(experiment: Experiment, study: Study, *, seeds: Sequence[int]) -> dict[str, Path]:
    """Name of a condition -> picture file, of the first seed that all conditions have, nothing if there is none; of an
    experiment with a baseline those that are there, if the baseline's is."""
    for seed in seeds:
        found = {one.name: study.strip(one.training, one.sampling, seed) for one in experiment.conditions}
        there = {name: file for name, file in found.items() if file.exists()}
        if there == found or (experiment.baseline in there and len(there) > 1):
            return there
    return {}


def rows_of(condition: Condition, rows: Sequence[Row]) -> list[Row]:
    """Those of one condition."""
    wanted = {"training": condition.training.key, **condition.sampling._asdict()}
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def comparable(experiment: Experiment, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Name of a condition -> its rows, of the subjects and seeds that all of the experiment's conditions have; all its
    rows if there is a baseline, with which each is compared on its own."""
    found = {condition.name: rows_of(condition, rows) for condition in experiment.conditions}
    if experiment.baseline:
        return found
    shared = set.intersection(*({(row["subject"], row["seed"]) for row in of_one} for of_one in found.values()))
    return {name: [row for row in of_one if (row["subject"], row["seed"]) in shared] for name, of_one in found.items()}


def section(experiment: Experiment, found: Mapping[str, Sequence[Row]]) -> str:
    """A table, a figure and what became of the claims."""
    columns = METRICS + COSTS if experiment.costs else METRICS
    table = [*_columns(columns), *(_line(name, rows, columns) for name, rows in found.items())]
    lines = [f"\n## {experiment.title}\n", *([_COSTS] if experiment.costs else []), *table]
    if experiment.baseline:
        lines += against(experiment.baseline, found)
        named = ", ".join(f"*{name}*" for name in fit_for_the_quick_start(experiment.baseline, found)) or "none"
        lines.append(_FIT.format(named=named, recognised=_RECOGNISED, leaked=_LEAKED, baseline=experiment.baseline))
    lines.append(f"\n![{experiment.title}](study/{experiment.slug}.png)")
    return "\n".join(lines) + "\n"


def against(baseline: str, found: Mapping[str, Sequence[Row]]) -> list[str]:
    """A table of what each other condition has more of than this one, with intervals."""
    lines = [
        _AGAINST.format(baseline=baseline),
        "| | " + " | ".join(_COMPARED) + " |",
        "|---" * (1 + len(_COMPARED)) + "|",
    ]
    for name in found:
        if name != baseline:
            claims = [Claim("", "", metric, name, baseline) for metric in _COMPARED]
            lines.append(f"| {name} | " + " | ".join(_difference(*compare(claim, found)) for claim in claims) + " |")
    return lines


def fit_for_the_quick_start(baseline: str, found: Mapping[str, Sequence[Row]]) -> list[str]:
    """Conditions that recognise enough, leak little and take no longer, by the subjects whose times both have."""

    def fits(name: str) -> bool:
        slower, _, count = compare(Claim("", "", "seconds", name, baseline), found)
        recognised, leaked = (summary(found[name], metric)[0] for metric in ("recognised", "leaked"))
        return recognised >= _RECOGNISED and leaked <= _LEAKED and count > 0 and slower <= 0

    return [name for name in found if name != baseline and fits(name)]


def _difference(mean: float, error: float, count: int) -> str:
    if not count:
        return "-"
    said = f"{mean:+.2f} ± {error:.2f}".replace(" ± inf", "")  # of fewer than three
    return said if verdict(mean, error) == "Open" else f"**{said}**"


def _columns(columns: Sequence[str] = METRICS) -> list[str]:
    return ["| | n | " + " | ".join(columns).replace("_", " ") + " |", "|---" * (2 + len(columns)) + "|"]


def _line(name: str, rows: Sequence[Row], columns: Sequence[str] = METRICS) -> str:
    cells = []
    for column in columns:
        known = [row for row in rows if column in row]  # costs were not measured from the first
        mean, spread = summary(known, column) if known else (0.0, 0.0)
        cells.append((f"{mean:.2f} ± {spread:.2f}" if len(known) > 1 else f"{mean:.2f}") if known else "-")
    return f"| {name} | {len(rows)} | " + " | ".join(cells) + " |"
