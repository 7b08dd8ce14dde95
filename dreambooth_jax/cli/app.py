# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax app``."""

from dreambooth_jax.cli.verb import Call, Verb
from dreambooth_jax.cli.words import one_each
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions


def app(call: Call) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        InputError: without Gradio, or if the page would be open to everybody.
    """
    options: AppOptions = call.settings
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise InputError("the page needs Gradio: pip install 'dreambooth_jax[app]'")
    from dreambooth_jax.app.server import serve

    serve(options)


APP = Verb(
    name="app",
    usage="[KEY=VALUE ...]",
    help="a page in the browser: train on photos, watch, draw",
    settings=AppOptions,
    place_words=one_each(),
    run=app,
    examples=(
        ("the embedded model, for this machine alone", "app"),
        ("Stable Diffusion too, by files of settings", 'app configs="quickstart; sd15_lora"'),
        ("and any other model, by a name", "app models=dog_friend=/models/dog_friend.safetensors"),
        ("for others of the network", "app host=0.0.0.0 user=me password_file=secret.txt"),
    ),
)
