#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Train the judge of ``dreambooth_study.py``: a folder of sprites in, dreambooth_jax/embedded/judge out. Minutes on two
cores.

    python scripts/train_judge.py --sprites SPRITES --work WORK

The same command goes on from wherever it was stopped.
"""

import json
from pathlib import Path

from jsonargparse import ArgumentParser
from study.judge_training import JudgeSettings, train_judge

from dreambooth_jax.evaluation.judge import SHIPPED


def parse(arguments: list[str] | None = None) -> JudgeSettings:
    """From the command line."""
    parser = ArgumentParser(description="Train the judge.")
    parser.add_class_arguments(JudgeSettings, as_group=False)
    parser.set_defaults(output=Path(SHIPPED))
    return JudgeSettings(**vars(parser.instantiate(parser.parse_args(arguments))))


if __name__ == "__main__":
    print(json.dumps(train_judge(parse()).measured, indent=1))
