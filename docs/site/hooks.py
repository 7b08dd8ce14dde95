# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the documentation's site has besides the pages in ``docs/``, made anew at each build."""

from pathlib import Path

from generated import commands, notebooks, reference, settings
from generated.repository import Repository

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = Repository(ROOT)
STATIC = {
    "site.css": ROOT / "docs/site/site.css",
    "icon.png": ROOT / "dreambooth_jax/embedded/subject/subject_1.png",
}


def on_config(config):
    """Pages that nobody writes have their places, too."""
    places = {title: pages for group in config.nav for part in group.values() for title, pages in _named(part)}
    places["Command line"] += [{name: uri} for name, uri in commands.places()]
    places["Python"] += [{name: uri} for name, uri in reference.places(ROOT)]
    return config


def _named(pages):
    return [item for page in pages if isinstance(page, dict) for item in page.items()]


def on_files(files, config):
    """Add what is read off the program, and what pages link to outside of ``docs/``."""
    from mkdocs.structure.files import File

    made = {"settings.md": settings.page(), **commands.pages(), **reference.pages(ROOT), **notebooks.pages(ROOT)}
    made |= REPOSITORY.pages()
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    for uri, path in STATIC.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """Links of the repository become links of the site."""
    return REPOSITORY.as_links_of_the_site(markdown, page.file.src_uri)
