# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""From all that is known of a run to what is wrong with it, the most telling first.

A symptom that a setting explains is evidence for this setting, so that several symptoms of one cause are one finding. A
symptom that nothing explains is a finding of its own. What photos and words show comes after what pictures show, unless
it explains that; settings that are far off without any symptom come last.
"""

import numpy as np

from dreambooth_jax.doctor.causes import ALONE, CAUSES, FAR, SUSPECT, no_prior
from dreambooth_jax.doctor.finding import Finding, Symptom
from dreambooth_jax.doctor.of_photos import PHOTOS
from dreambooth_jax.doctor.patient import Patient
from dreambooth_jax.doctor.symptoms import symptoms

UNEXPLAINED = {
    "broken": "samples.steps=100 and samples.sampler=ddim; if this is no better, half of optimizer.learning_rate",
    "copies": "data.instance_images: photos that differ more",
    "leaks": "prior.num_images: more, and more different ones",
}
"""What to change first where all settings are usual."""


def findings(patient: Patient) -> list[Finding]:
    """All that is wrong with a run."""
    found: dict[str, Finding] = {}
    for symptom in symptoms(patient.looks) if patient.looks else ():
        one = _explained(symptom, patient)
        earlier = found.get(one.name)
        found[one.name] = earlier._replace(evidence=(*earlier.evidence, one.evidence[-1])) if earlier else one
    shown = [finding for of_photos in PHOTOS for finding in of_photos(patient)]
    alone = [_seen(finding, patient) for cause in ALONE if (finding := cause(patient, FAR))]
    if patient.looks is None and patient.recipe and patient.recipe.prior:
        alone += [finding] if (finding := no_prior(patient, FAR)) else []
    for finding in (*shown, *alone):
        found.setdefault(finding.name, finding)
    return list(found.values())


def _explained(symptom: Symptom, patient: Patient) -> Finding:
    """The first cause that is far enough off, with the symptom as its evidence; else the symptom itself."""
    for cause in CAUSES[symptom.name]:
        if finding := cause(patient, SUSPECT):
            return finding._replace(evidence=(*finding.evidence, f"{symptom.what}: {symptom.evidence}"))
    if symptom.name == "no_likeness" and patient.recipe:
        what = f"{symptom.what}, with settings that are usual"
        schedule = "cosine" if patient.regimen.schedule == "constant" else "constant"
        return Finding("nothing_helps", what, (symptom.evidence,), f"optimizer.schedule={schedule}")
    change = UNEXPLAINED.get(symptom.name, f"train.steps={_other_steps(symptom, patient)}")
    return Finding(symptom.name, symptom.what, (symptom.evidence,), change)


def _seen(finding: Finding, patient: Patient) -> Finding:
    """With what pictures say of it, where they show no symptom."""
    looks = patient.looks
    if looks is None or np.isnan(looks.learnt):
        return finding
    seen = f"pictures have come {looks.learnt:.0%} of the way from the class to the photos"
    if looks.obeyed_before > 0:
        seen += f", and keep {looks.obeyed / looks.obeyed_before:.0%} of what prompts decided before"
    return finding._replace(evidence=(*finding.evidence, seen))


def _other_steps(symptom: Symptom, patient: Patient) -> int:
    """Twice as many where nothing was learnt, half as many where too much was."""
    steps = patient.regimen.steps
    return 2 * steps if symptom.name == "no_likeness" else max(1, steps // 2)
