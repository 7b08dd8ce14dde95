# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The metrics' way to a run's files, on process 0, and to the screen."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext

from dreambooth_jax import distributed
from dreambooth_jax.config import Config
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.metrics import Listener, MetricsFiles, Recorder


@contextmanager
def recording(
    config: Config, folder: RunFolder, training: Training, listeners: Sequence[Listener], *, show_bar: bool = True
) -> Iterator[Recorder]:
    """What takes a run's metrics.

    Args:
        config: of the run.
        folder: of the run.
        training: the run.
        listeners: get each line, too.
        show_bar: on the screen.
    """
    is_main, first_step = distributed.is_main(), training.first_step
    with closing(MetricsFiles(folder.path, first_step=first_step)) if is_main else nullcontext() as files:
        recorder = Recorder(
            [files.write, *listeners] if files else [],
            first_step=first_step,
            steps=config.train.steps,
            images_per_step=training.setup.batches.examples,
            log_every=config.train.log_every,
            show_bar=is_main and show_bar,
        )
        with closing(recorder):
            yield recorder
