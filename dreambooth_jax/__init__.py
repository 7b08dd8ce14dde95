# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""DreamBooth for Stable Diffusion in pure JAX/Flax.

    import dreambooth_jax as dbx
    pipe = dbx.load_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
    dbx.train(dbx.load_config("configs/sd15.yaml", ["data.instance_images=photos", "data.class_noun=dog"]))

Names are imported when they are first used, so that ``dreambooth-jax --help`` does not wait for jax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dreambooth_jax._version import __version__ as __version__

if TYPE_CHECKING:
    from dreambooth_jax.config import Config as Config
    from dreambooth_jax.config import load_config as load_config
    from dreambooth_jax.errors import InputError as InputError
    from dreambooth_jax.export import save_pretrained as save_pretrained
    from dreambooth_jax.pipeline import Control as Control
    from dreambooth_jax.pipeline import Pipeline as Pipeline
    from dreambooth_jax.pipeline import load_control as load_control
    from dreambooth_jax.pipeline import load_pretrained as load_pretrained
    from dreambooth_jax.planning import plan as plan
    from dreambooth_jax.trainer import RunResult as RunResult
    from dreambooth_jax.trainer import train as train

_HOMES = {
    "Config": "config",
    "load_config": "config",
    "InputError": "errors",
    "save_pretrained": "export",
    "Pipeline": "pipeline",
    "load_pretrained": "pipeline",
    "Control": "pipeline",
    "load_control": "pipeline",
    "plan": "planning",
    "RunResult": "trainer",
    "train": "trainer",
}

__all__ = [
    "Config",
    "Control",
    "InputError",
    "Pipeline",
    "__version__",
    "load_config",
    "load_control",
    "load_pretrained",
    "plan",
    "save_pretrained",
    "train",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
