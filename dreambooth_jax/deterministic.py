# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A GPU's results, equal bit for bit from run to run: what XLA and NCCL have to be told before they start.

What differs there between two runs of one program, and what ends it:

    kernels are picked by timing them          the first that works is taken; that of a product of matrices is cuBLAS's
                                               own choice, since an untimed one of Triton may be slow, or not compile
    what was timed before is kept in a file    JAX's setting for it is turned off; programs are still kept
    gradients of convolutions, and those of    only kernels that do not add in the order in which threads come; cuDNN's
    queries in cuDNN's attention               attention is asked for its deterministic gradient
    scatters, such as an embedding's gradient  another program, which sorts first
    NVLink switches that add (NVLS)            ``NCCL_ALGO=^NVLS``; NCCL's other algorithms add in a fixed order

CPUs and TPUs give equal results anyway, and have nothing set. Equal means on the same kind and number of devices with
the same versions of everything.
"""

import os
import sys
from importlib.metadata import entry_points

from dreambooth_jax.errors import InputError

FLAGS = {"xla_gpu_deterministic_ops": "true", "xla_gpu_exclude_nondeterministic_ops": "true"}
"""The first is said to imply the second; XLA's autotuner asks each in other places. XLA ends the process for a flag
that it does not know: these and the next are in all of jaxlib 0.10 to 0.12.

To set ``xla_gpu_autotune_level=0`` would not do instead: with it cuDNN's default kernels compute convolutions, and some
of these are not deterministic.
"""
HELPFUL = {"xla_gpu_enable_triton_gemm": "false"}
"""Of no use when nothing is timed."""
COLLECTIVES = ("NCCL_ALGO", "^NVLS")
GPUS = {"cuda", "rocm", "gpu"}
WAY_OUT = "call dreambooth_jax.deterministic.make_deterministic() before anything is computed"


def make_deterministic() -> None:
    """Have XLA compute deterministically on GPUs, if it has not started yet. What the user has set stays as it is.

    Raises:
        InputError: if XLA runs on a GPU already without the flags, or the user has set them to false.
    """
    said = _said()
    for flag in FLAGS:
        if said.get(flag, "true").lower() in ("false", "0"):
            raise InputError(
                f"train.deterministic is true, but XLA_FLAGS has --{flag}={said[flag]}: take one of them out"
            )
    missing = " ".join(f"--{flag}={value}" for flag, value in (FLAGS | HELPFUL).items() if flag not in said)
    running = _running()
    if running in GPUS and not FLAGS.keys() <= said.keys():
        raise InputError(
            f"train.deterministic is true, but jax started without it: {WAY_OUT}, or set XLA_FLAGS='{missing}'"
        )
    starts = running is None and _may_have_gpu()
    if starts:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {missing}".strip()
    if starts or running in GPUS:
        os.environ.setdefault(*COLLECTIVES)
        import jax  # starts nothing

        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _said() -> dict[str, str]:
    """Flags of XLA_FLAGS, without their dashes. One without a value means true."""
    words = (word.lstrip("-").partition("=") for word in os.environ.get("XLA_FLAGS", "").split())
    return {name: value if equals else "true" for name, equals, value in words}


def _running() -> str | None:
    """The platform that jax computes on; None if that is not settled, and XLA has not read its flags."""
    if "jax" not in sys.modules:
        return None
    import jax
    from jax._src import xla_bridge  # jax has no public way to ask this without starting what is asked for

    return jax.default_backend() if xla_bridge.backends_are_initialized() else None


def _may_have_gpu() -> bool:
    """Could jax start on a GPU? Asked of what is installed and of what it may use, since to ask jax would start it."""
    allowed = os.environ.get("JAX_PLATFORMS", "")
    if "jax" in sys.modules:
        allowed = sys.modules["jax"].config.jax_platforms or ""
    if allowed and not GPUS & set(allowed.split(",")):
        return False
    return any("cuda" in plugin.name or "rocm" in plugin.name for plugin in entry_points(group="jax_plugins"))
