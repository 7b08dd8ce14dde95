# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Strict numerics and eight pretended CPU devices for every test."""

import atexit
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of what these tests do, and these two halve it; CI runs the parity tests once more with XLA's usual
# optimisations.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may need a network
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# A shell has its background jobs ignore Ctrl-C, which they hand down to what they start: here it counts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Many tests compile the same tiny networks: each program once, for pytest's workers, and what they start, inherit this.
if "DREAMBOOTH_JAX_TESTS_COMPILED" not in os.environ:
    os.environ["DREAMBOOTH_JAX_TESTS_COMPILED"] = tempfile.mkdtemp(prefix="dreambooth_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["DREAMBOOTH_JAX_TESTS_COMPILED"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["DREAMBOOTH_JAX_TESTS_COMPILED"]
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**30)  # with a limit, JAX reads and writes under a lock
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import hypothesis
import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("untimed", deadline=None)  # other work on the machine is no fault
hypothesis.settings.load_profile("untimed")


LONGEST = [
    *("scripts/test_result.py", "drills/test_kill.py", "scripts/test_pretrain_embedded.py", "hosts/test_runs.py"),
    *("scripts/test_scripts.py", "scripts/test_measure_gpu.py", "scripts/test_real_size.py", "test_trainer.py"),
    *("test_earlier_runs.py", "test_teacher_runs.py", "test_compiles.py", "adapters/test_peft_parity.py"),
    "doctor/test_embedded.py",
]
"""Files of slow tests that take minutes come first: a last one would leave the other processes with nothing to do."""


TURN, WITHIN = (os.environ.get(f"DREAMBOOTH_JAX_TESTS_{name}") for name in ("TURN", "WITHIN"))
"""Where there is not time for all: seconds within which files begin, and what their order is drawn by, so that another
time others come first. What did not begin is skipped, and named."""
TO_END = 600
"""Seconds longer that those of a file which has begun may begin."""
_FIRST = time.monotonic()
_begun = set()


def pytest_collection_modifyitems(items):
    order = {str(Path(__file__).parent / name): number for number, name in enumerate(LONGEST)}
    drawn = {item.path: random.Random(f"{TURN} {item.nodeid.partition('::')[0]}").random() for item in items}
    items.sort(key=lambda item: drawn[item.path] if TURN else order.get(str(item.path), len(order)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    left = float(WITHIN or "inf") - (time.monotonic() - _FIRST)
    if left < 0 and not (item.path in _begun and left > -TO_END):
        pytest.skip(f"{item.path.name} did not begin within {WITHIN} s")
    _begun.add(item.path)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """A process keeps each program that it has compiled: gigabytes, by the end of all tests."""
    yield
    jax.clear_caches()


@pytest.fixture
def getkey():
    """A fresh key at every call."""
    counter = iter(range(1_000_000))
    return lambda: jax.random.key(next(counter))


@pytest.fixture
def untyped():
    """Signatures are not checked: what a user's call meets, which no checker has read."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def one_device():
    """Runs see one of the devices."""
    from dreambooth_jax.target import Target

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:1])))
        yield
