# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The floors of the house: imports go down only, files and functions stay small."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dreambooth_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lowest floor first. Rooms of one floor may import each other: nothing may import itself by way of others.
FLOORS: list[set[str]] = [
    {
        *(
            "errors",
            "_version",
            "size",
            "rng",
            "trees",
            "config",
            "options",
            "target",
            "distributed",
            "memory",
            "flops",
        ),
        *("compilation_cache", "deterministic", "hardware", "platforms", "progress", "text_files", "paths", "locks"),
    },
    {"models", "diffusion", "metadata", "data", "prompts"},
    {"training", "weights", "checks", "adapters", "members"},
    {"pipeline"},
    {"evaluation", "runs", "export"},
    {"prepare"},
    {"train_setup"},
    {"planning"},
    {"trainer"},
    {"sweeps", "assessment", "doctor"},
    {"cli", "app", "__init__", "__main__"},
]


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


def room_of(module: str) -> str:
    """dreambooth_jax.models.unet -> models"""
    return [*module.split("."), "__init__"][1]


def module_of(path: Path) -> str:
    """models/unet.py -> dreambooth_jax.models.unet"""
    return ".".join(("dreambooth_jax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreambooth_jax"):
            for alias in node.names:
                deeper = PACKAGE.parent / f"{node.module}.{alias.name}".replace(".", "/")
                is_module = deeper.with_suffix(".py").exists() or (deeper / "__init__.py").exists()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("dreambooth_jax")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = room_of(module_of(path))
    for name in imports(path):
        other = room_of(name)
        assert floor_of(other) <= floor_of(room), f"{path} imports {name}, not below it"


def test_nothing_imports_itself_by_way_of_others():
    graph = {module_of(path): imports(path) for path in FILES if path.parent != PACKAGE or path.stem != "__init__"}
    TopologicalSorter(graph).prepare()  # raises, with the circle


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_things_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_no_object_of_a_run_carries_its_config():
    """It is read where a capability begins; what is made there holds the values that it uses, and can be made without.
    What opens a run folder hands the config on, and a member of several runs is a name and its config."""
    carrying = {
        node.name
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        if any(isinstance(name, ast.Name) and name.id == "Config" for name in ast.walk(field.annotation))
    }
    assert carrying == {"OpenedModel", "Member"}


def test_no_torch_at_run_time():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"torch", "diffusers", "tensorflow"}, path


def test_the_top_level_is_what_it_should_be():
    for name in ("configs", "scripts", "tests", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        assert (ROOT / name).exists(), name


KIND = re.compile(r"(?<![a-z])(sd)?xl(?![a-z])|stablediffusionxl", re.IGNORECASE)
"""A word that names a kind of model."""
MATCHING = {"startswith", "endswith", "removeprefix", "removesuffix", "match", "fullmatch", "search", "find", "count"}


def asked_for_a_kind(source: str) -> Iterator[str]:
    """What code says that asks which kind of model it has: in a comparison or a match; or in a name of its own, other
    than those of tables, which are in capitals."""
    for node in ast.walk(ast.parse(source)):
        asks = isinstance(node, ast.Compare | ast.MatchValue) or (
            isinstance(node, ast.Call) and getattr(node.func, "attr", "") in MATCHING
        )
        for part in ast.walk(node) if asks else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and KIND.search(part.value):
                yield part.value
        for name in (getattr(node, field, None) for field in ("id", "attr", "arg", "name")):
            if isinstance(name, str) and not name.isupper() and KIND.search(name.replace("_", " ")):
                yield name


def test_nothing_but_the_families_and_tables_knows_kinds_of_models():
    found = {str(file.relative_to(PACKAGE)): list(asked_for_a_kind(file.read_text())) for file in FILES}
    assert {file: names for file, names in found.items() if names and file != "models/families.py"} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("if family.name == 'sdxl': pass", ["sdxl"]),
        ("if kind in ('sd', 'xl'): pass", ["xl"]),
        ("name.startswith('StableDiffusionXLImg')", ["StableDiffusionXLImg"]),
        ("name.endswith('-xl')", ["-xl"]),
        ("def f(is_xl): return is_xl", ["is_xl", "is_xl"]),
        ("family = families.sdxl", ["sdxl"]),
        ("NAMES_XL = {'xl': 'Stable Diffusion XL'}", []),
        ("os.environ['XLA_FLAGS'] == xla", []),
    ],
)
def test_what_asks_for_a_kind(source, found):
    assert sorted(asked_for_a_kind(source)) == found
