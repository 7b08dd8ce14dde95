# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Lists of prompts that are known by name; all are templates with {identifier} and {class_noun}.

``dreambooth-object`` and ``dreambooth-live`` are those that the DreamBooth paper is measured with (arXiv 2208.12242,
section 4.1; github.com/google/dreambooth, ``prompts_and_classes.txt``): 25 for things, and 25 for animals.
``course`` has the places and costumes of the founding course's examples.
``anatomy`` grows by one part in each line: see ``docs/prompts.md``.
``inversion-object`` and ``inversion-style`` are those that textual inversion is trained with (arXiv 2208.01618,
section 3.2 and the supplement), for data.templates; their {identifier} stands alone.
``embedded`` are for the embedded model, which knows few words. ``other`` and ``embedded-other`` have no subject: what a
model draws of them should not change when it learns one.
"""

import difflib
from collections.abc import Iterable

from dreambooth_jax.errors import InputError

_SUBJECT = "a {identifier} {class_noun}"
_PLACES = (
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "on top of a purple rug in a forest",
)
_MORE_PLACES = (
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
)
_CLOTHES = (
    "wearing a red hat",
    "wearing a santa hat",
    "wearing a rainbow scarf",
    "wearing a black top hat and a monocle",
    "in a chef outfit",
    "in a firefighter outfit",
    "in a police outfit",
    "wearing pink glasses",
    "wearing a yellow shirt",
    "in a purple wizard outfit",
)
_PROPERTIES = tuple(
    f"a {word} {{identifier}} {{class_noun}}" for word in ("red", "purple", "shiny", "wet", "cube shaped")
)

_OBJECT = (
    *("a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}"),
    *("a photo of a clean {}", "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}"),
    *("a photo of the cool {}", "a close-up photo of a {}", "a bright photo of the {}", "a cropped photo of a {}"),
    *("a photo of the {}", "a good photo of the {}", "a photo of one {}", "a close-up photo of the {}"),
    *("a rendition of the {}", "a photo of the clean {}", "a rendition of a {}", "a photo of a nice {}"),
    *("a good photo of a {}", "a photo of the nice {}", "a photo of the small {}", "a photo of the weird {}"),
    *("a photo of the large {}", "a photo of a cool {}", "a photo of a small {}"),
)
_STYLE = (
    *("a painting", "a rendering", "a cropped painting", "the painting", "a clean painting", "a dirty painting"),
    *("a dark painting", "a picture", "a cool painting", "a close-up painting", "a bright painting"),
    *("a good painting", "a rendition", "a nice painting", "a small painting", "a weird painting", "a large painting"),
)

_EMBEDDED = (
    *("on a white background", "on a blue background", "on a red background", "on a yellow background"),
    *("on the grass", "in the snow", "on the left on a teal background", "at the bottom on an orange background"),
)
_OTHER = (
    *("a bowl of fruit on a kitchen table", "a portrait of an old man", "a red bicycle leaning on a brick wall"),
    *("a mountain lake at sunrise", "a busy street at night in the rain", "a jar of honey and a slice of bread"),
    *(
        "a watercolour of a sailing boat",
        "an astronaut on the moon",
        "a field of lavender",
        "a steam train on a bridge",
    ),
)
_EMBEDDED_OTHER = (
    *("a house on the grass", "a tree in the snow", "an apple on a red background", "a boat on a blue background"),
    *("a chair on a white background", "a flower on a yellow background", "a car on the left on a green background"),
    *("a cake on a pink background", "a bottle on a purple background", "a book on a table"),
)

_WATERCOLOUR = "a watercolor painting of {identifier} {class_noun}"
_COURSE = (
    *("in a bucket", "on the grass", "in a car", "at the Grand Canyon", "under the night sky", "at Versailles"),
    *("in the water", "in Boston", "by the sea", "as an astronaut", "in a suit of armor", "in a western film"),
)

ANATOMY = {
    "subject": "{identifier} {class_noun}",
    "action": "sitting",
    "place": "on a beach at sunset",
    "medium": "oil painting",
    "style": "impressionism",
    "light": "warm light",
    "colour": "pastel colours",
    "composition": "close-up, centred",
    "detail": "highly detailed",
}
"""The parts of a prompt, the most important first, with an example of each."""


def _growing() -> tuple[str, ...]:
    subject, action, place, *others = ANATOMY.values()
    scenes = [f"a {subject}", f"a {subject} {action}", f"a {subject} {action} {place}"]
    return (*scenes, *(", ".join([scenes[-1], *others[: i + 1]]) for i in range(len(others))))


NAMED = {
    "dreambooth-object": (*(f"{_SUBJECT} {place}" for place in (*_PLACES, *_MORE_PLACES)), *_PROPERTIES),
    "dreambooth-live": (*(f"{_SUBJECT} {what}" for what in (*_PLACES, *_CLOTHES)), *_PROPERTIES),
    "anatomy": _growing(),
    "course": (*(f"a photo of {{identifier}} {{class_noun}} {place}" for place in _COURSE), _WATERCOLOUR),
    "embedded": tuple(f"{_SUBJECT} {where}" for where in _EMBEDDED),
    "other": _OTHER,
    "embedded-other": _EMBEDDED_OTHER,
    "inversion-object": tuple(text.replace("{}", "{identifier}") for text in _OBJECT),
    "inversion-style": tuple(f"{text} in the style of {{identifier}}" for text in _STYLE),
}


def expanded(prompts: Iterable[str]) -> list[str]:
    """Prompts with those of a list in the place of its name.

    Raises:
        InputError: for what is nearly such a name, and the nearest.
    """
    found: list[str] = []
    for prompt in prompts:
        if prompt in NAMED:
            found += NAMED[prompt]
            continue
        near = difflib.get_close_matches(prompt, NAMED, n=1, cutoff=0.8) if len(prompt) < 30 else []
        if near and " " not in prompt:
            raise InputError(f"there are no prompts of the name {prompt!r}; did you mean {near[0]}?")
        found.append(prompt)
    return found
