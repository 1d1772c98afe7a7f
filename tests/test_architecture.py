"""The map of the code holds: imports point down, apart stays apart, and `rife/` is a library alone.

Each rule is a function of what modules import, and is shown to fail on a small example that breaks
it.
"""

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import rife

ROOT = Path(__file__).parents[1]

#: From the top to the bottom: a row imports rows below it only, and the parts of one row don't
#: import each other. A folder stands for all its modules; "rife" is rife/__init__.py alone.
LAYERS = (
    ("__init__", "__main__"),  # what ComfyUI loads, and what `python FOLDER` runs
    ("nodes",),
    ("node_inputs", "runs"),
    ("comfy_host", "doctor_host"),
    ("rife.__main__",),
    ("rife.cli",),
    ("rife.cli_parser", "rife.doctor"),
    ("rife",),  # the public names
    ("rife.interpolate_file", "rife.optical_flow", "rife.IFNet", "rife.RIFE", "rife.refine"),
    ("rife.interpolate",),
    ("rife.output_frames",),
    ("rife.key_frames",),
    ("rife.inference",),
    ("rife.analysis", "rife.engine", "rife.media", "rife.models", "rife.options"),
    ("rife.devices",),
    ("rife.networks",),
    ("rife.callbacks", "rife.console", "rife.fileio", "rife.timeline"),
    ("rife.temporary_paths",),
    ("rife.interrupts",),
)

#: Folders that know little: of `rife`, they import these parts and themselves, and nothing else.
MAY_IMPORT = {
    "rife.networks": (),
    "rife.models": ("rife.networks", "rife.devices", "rife.fileio", "rife.callbacks"),
    "rife.media": ("rife.fileio",),
}

#: Modules of ComfyUI. Those of the second line are named like many other things, and may be so in
#: texts.
COMFYUI = {
    *("comfy", "comfy_api", "comfy_execution", "comfy_extras", "comfyui_version", "folder_paths"),
    *("execution", "nodes", "server"),
}
NAMED_BY_COMFYUI_ALONE = re.compile(
    r"\b(comfy_(api|execution|extras)|comfyui_version|folder_paths|custom_nodes|comfy\.\w+)\b"
)

Sources = Mapping[str, str]  # a module's dotted name -> its text


def read_sources(*patterns: str) -> dict[str, str]:
    """Returns the modules whose paths match, as "rife.media.reader"; a package has its folder's
    name, and the repository's own __init__.py stays "__init__"."""
    sources = {}
    for file in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        name = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        sources[name.removesuffix(".__init__")] = file.read_text(encoding="utf-8")
    return sources


PACK = read_sources("*.py", "comfy_host/*.py", "rife/**/*.py")
TESTS = read_sources("tests/**/*.py")


def named_imports(module: str, source: str, is_package: bool) -> Iterator[tuple[str, bool]]:
    """Yields the dotted names that a module imports, wherever it does, and whether each is of our
    own code for sure, because it is relative."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            start = [*parents, *filter(None, [node.module])]
            yield from ((".".join([*start, x.name]), bool(node.level)) for x in node.names)


def imports_of(sources: Sources) -> dict[str, set[str]]:
    """Returns which of the modules each of them imports."""

    def resolve(name: str, is_relative: bool) -> str | None:
        if not is_relative and name.partition(".")[0] not in ("rife", "tests"):
            return None  # as `import nodes`, which is ComfyUI's
        while name and name not in sources:
            name = name.rpartition(".")[0]  # a function or class of that module
        return name

    imports = {}
    for module, source in sources.items():
        is_package = module != "__init__" and any(x.startswith(f"{module}.") for x in sources)
        found = {resolve(*each) for each in named_imports(module, source, is_package)}
        imports[module] = {name for name in found if name} - {module}
    return imports


def part_of(module: str, parts: Iterable[str]) -> str:
    """Returns the part of the map to which a module belongs."""
    for part in sorted(parts, key=len, reverse=True):
        if module == part or (part != "rife" and module.startswith(f"{part}.")):
            return part
    raise LookupError(f"{module} is not on the map: add it to LAYERS")


def find_circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Returns modules that import each other in a circle, or an empty list."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        circles = (visit(other, [*path, module]) for other in sorted(imports.get(module, ())))
        circle = next(filter(None, circles), [])
        done.add(module)
        return circle

    return next(filter(None, (visit(module, []) for module in sorted(imports))), [])


def find_arrows_up(
    imports: Mapping[str, set[str]], layers: tuple[tuple[str, ...], ...] = LAYERS
) -> list[str]:
    """Returns the imports that don't point down, as "rife.media.base -> rife.cli"."""
    row = {part: number for number, parts in enumerate(layers) for part in parts}
    wrong = []
    for module, others in imports.items():
        part = part_of(module, row)
        for other in others:
            target = part_of(other, row)
            if part != target and row[target] <= row[part]:
                wrong.append(f"{module} -> {other}")
    return sorted(wrong)


def find_strangers(
    imports: Mapping[str, set[str]], allowed: Mapping[str, Iterable[str]] = MAY_IMPORT
) -> list[str]:
    """Returns the imports of a folder that knows little by which it knows more."""
    return sorted(
        f"{module} -> {other}"
        for folder, parts in allowed.items()
        for module, others in imports.items()
        if f"{module}.".startswith(f"{folder}.")
        for other in others
        if not f"{other}.".startswith((f"{folder}.", *(f"{part}." for part in parts)))
    )


def find_comfyui(sources: Sources) -> list[str]:
    """Returns where a module imports one of ComfyUI's, or names one in a text that isn't a
    docstring."""
    wrong = []
    for module, source in sources.items():
        for name, is_relative in named_imports(module, source, is_package=False):
            if not is_relative and name.partition(".")[0] in COMFYUI:
                wrong.append(f"{module} imports {name}")
        tree = ast.parse(source)
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in alone else ""
            text = node.id if isinstance(node, ast.Name) else text
            if isinstance(text, str) and (named := NAMED_BY_COMFYUI_ALONE.search(text)):
                wrong.append(f"{module}, line {node.lineno}, names {named[0]}")
    return wrong


def find_tests_in_tests(imports: Mapping[str, set[str]]) -> list[str]:
    """Returns where a module of the tests imports a test; what they share is in tests/support/."""

    def is_test(module: str) -> bool:
        return module.rpartition(".")[2].startswith("test_")

    pairs = ((module, other) for module, others in imports.items() for other in others)
    return sorted(f"{module} -> {other}" for module, other in pairs if is_test(other))


def find_undocumented(public: Mapping[str, object]) -> list[str]:
    """Returns the functions and classes without a docstring of their own; dataclasses and named
    tuples are given one that only repeats their fields."""
    return [
        name
        for name, value in public.items()
        if inspect.isroutine(value) or inspect.isclass(value)
        if not (value.__doc__ or "").strip() or value.__doc__.startswith(f"{name}(")
    ]


def test_imports_go_in_no_circle() -> None:
    assert find_circle(imports_of(PACK)) == []


def test_imports_point_down() -> None:
    assert find_arrows_up(imports_of(PACK)) == []


def test_networks_models_and_media_know_nothing_of_each_other_but_what_is_below() -> None:
    assert find_strangers(imports_of(PACK)) == []


def test_the_library_knows_no_comfyui() -> None:
    library = {name: text for name, text in PACK.items() if f"{name}.".startswith("rife.")}
    assert find_comfyui(library) == []


def test_tests_import_no_test() -> None:
    assert find_tests_in_tests(imports_of(TESTS)) == []


def test_every_public_name_has_a_docstring() -> None:
    assert find_undocumented({name: getattr(rife, name) for name in rife.__all__}) == []


def test_every_row_of_the_map_exists() -> None:
    names = {part for row in LAYERS for part in row} | set(MAY_IMPORT)
    assert names <= set(PACK) and all(set(parts) <= names for parts in MAY_IMPORT.values())


def sources_with(**changed: str) -> dict[str, str]:
    """A small pack, with the text of some modules changed; "__" stands for a dot."""
    small = {"__init__": "from . import nodes", "nodes": "from .rife import cli"}
    small |= {"rife": "from .media import open_reader", "rife.cli": "import rife"}
    small |= {"rife.media": "from .reader import open_reader", "rife.media.reader": ""}
    small |= {"rife.networks": "", "rife.models": "", "rife.models.zoo": "from .. import networks"}
    return small | {name.replace("__", "."): text for name, text in changed.items()}


def test_a_pack_in_order_passes() -> None:
    imports = imports_of(sources_with())
    assert imports["nodes"] == {"rife.cli"}
    assert imports["rife.models.zoo"] == {"rife.networks"}
    assert not find_circle(imports) and not find_arrows_up(imports) and not find_strangers(imports)


@pytest.mark.parametrize("line", ["import rife.cli", "def f():\n    from ..cli import main"])
def test_a_circle_is_found(line: str) -> None:
    circle = find_circle(imports_of(sources_with(rife__media__reader=line)))
    assert circle[0] == circle[-1] and {"rife.cli", "rife.media.reader"} <= set(circle)


@pytest.mark.parametrize(
    ("module", "line", "arrow"),
    [
        ("rife__networks", "from ..cli import main", "rife.networks -> rife.cli"),
        ("rife__models", "from .. import media", "rife.models -> rife.media"),  # of one row
        ("rife__cli", "import nodes", ""),  # ComfyUI's, another rule's
    ],
)
def test_an_arrow_up_is_found(module: str, line: str, arrow: str) -> None:
    sources = sources_with(**{module: line}) | {f"{module.replace('__', '.')}.sub": ""}
    assert find_arrows_up(imports_of(sources)) == ([arrow] if arrow else [])


def test_a_module_that_is_not_on_the_map_is_named() -> None:
    with pytest.raises(LookupError, match="rife.more is not on the map"):
        find_arrows_up(imports_of(sources_with(rife__more="")))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("rife.networks.base", "from ..fileio import FileError"),
        ("rife.media.reader", "from ..networks.base import Network"),
        ("rife.models.zoo", "from ..media import open_reader"),
    ],
)
def test_a_folder_that_knows_too_much_is_found(module: str, line: str) -> None:
    others = {"rife.fileio": "", "rife.networks.base": "", "rife.media": ""}
    (stranger,) = find_strangers(imports_of(others | {module: line}))
    assert stranger.startswith(f"{module} -> rife.")


@pytest.mark.parametrize(
    "line",
    [
        *("import folder_paths", "from comfy.utils import ProgressBar", "import nodes"),
        *('load("comfy_api.latest")', "folder_paths.models_dir", 'root / "custom_nodes"'),
    ],
)
def test_comfyui_in_the_library_is_found(line: str) -> None:
    assert len(find_comfyui({"rife.doctor": f'"""As folder_paths has it."""\n{line}'})) == 1
    assert find_comfyui({"rife.doctor": '"""Of folder_paths."""\nsay("ComfyUI has it")'}) == []


@pytest.mark.parametrize("line", ["from .test_b import x", "import tests.test_b"])
def test_a_test_that_imports_another_is_found(line: str) -> None:
    sources = {"tests.test_a": line, "tests.test_b": "from .support import seeded"}
    assert find_tests_in_tests(imports_of(sources)) == ["tests.test_a -> tests.test_b"]


def test_a_missing_docstring_is_found() -> None:
    from dataclasses import dataclass

    @dataclass
    class Bare:
        x: int = 0

    def documented() -> None:
        """Says what it does."""

    public = {"Bare": Bare, "documented": documented, "nothing": lambda: 0, "NUMBERS": (1,)}
    assert find_undocumented(public) == ["Bare", "nothing"]
