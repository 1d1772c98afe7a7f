"""The nodes' names, tooltips and help pages in the languages of ComfyUI's interface."""

import json
import os
import re
from types import SimpleNamespace

import pytest

from ..support.pack import PACK

LANGUAGES = ("ar", "es", "fa", "fr", "ja", "ko", "pt-BR", "ru", "tr", "zh", "zh-TW")
DOCS = PACK / "web" / "docs"
#: Names that are the same in the language, or that nobody translates.
ALIKE = {
    *("CRF", "TTA", "codec", "ensemble", "format", "fps", "images", "model", "video"),
}
#: What a tooltip must keep as it is: figures, versions, folders, names, and options of combos,
#: which the frontend shows untranslated.
KEPT = re.compile(
    r"\b\w*\d+(?:\.\d+)*\w*|\b\w+/\w+|\bRIFE\b|\bCogVideoX\b|\bWan\b|\bNTSC\b|\bVideo Combine\b"
    r"|\bComfyUI(?:-Frame-Interpolation)?\b|\b(?:auto|hold|blend|ignore)\b(?=[: ])"
    r"|\b(?:frames|duration)\b(?=:)|\bdeinterlace\b|\bkeep\b(?= takes)"
)


@pytest.fixture
def schemas(pack: SimpleNamespace) -> dict[str, dict]:
    """Returns what a nodeDefs.json may translate, in English, by node."""
    schemas = {}
    for node_id, node in pack.nodes.items():
        schema = node.define_schema()
        schemas[node_id] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {i.id: {"name": i.id, "tooltip": i.tooltip} for i in schema.inputs},
            "outputs": {
                str(i): {"name": o.display_name, "tooltip": o.tooltip}
                for i, o in enumerate(schema.outputs)
            },
        }
    return schemas


def read_translation(language: str) -> dict:
    return json.loads((PACK / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def flatten(tree: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Returns the texts of a nodeDefs.json by the keys that lead to each."""
    leaves = {}
    for key, value in tree.items():
        inner = {(*path, key): value} if isinstance(value, str) else flatten(value, (*path, key))
        leaves.update(inner)
    return leaves


def test_there_is_a_file_for_every_language_and_nothing_else() -> None:
    files = {f.relative_to(PACK / "locales").as_posix() for f in PACK.glob("locales/**/*.*")}
    assert files == {f"{language}/nodeDefs.json" for language in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(schemas: dict, language: str) -> None:
    english, translation = flatten(schemas), flatten(read_translation(language))
    assert translation.keys() == english.keys()
    for path, text in translation.items():
        assert text.strip() == text != "", path
        assert text != english[path] or text in ALIKE, f"{path} is still English"
        assert not set(text) & set("{}@|"), f"{path}: vue-i18n reads {{}}@| as its own"


@pytest.mark.parametrize("language", LANGUAGES)
def test_figures_options_and_names_are_kept(schemas: dict, language: str) -> None:
    translation = flatten(read_translation(language))
    for path, text in flatten(schemas).items():
        if path[-1] == "name":
            continue
        missing = {word for word in KEPT.findall(text) if word not in translation[path]}
        assert not missing, f"{path}: {translation[path]}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_text_is_translated_the_same(schemas: dict, language: str) -> None:
    translation = flatten(read_translation(language))
    translations: dict[tuple[str, str], str] = {}
    for path, text in flatten(schemas).items():
        assert translations.setdefault((path[-1], text), translation[path]) == translation[path], (
            path
        )


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_interpolating_nodes_are_named_alike(language: str) -> None:
    """But for what they interpolate."""
    names = [
        read_translation(language)[node]["display_name"].replace("RIFE", "").strip()
        for node in ("RIFEFrameInterpolate", "RIFEVideoInterpolate")
    ]
    backwards = [name[::-1] for name in names]
    shared = max(map(len, map(os.path.commonprefix, (names, backwards))))
    assert shared >= min(map(len, names)) / 3


def read_pages(node_id: str) -> dict[str, str]:
    """Returns a node's help pages by language.

    The frontend asks for NODE_ID/LANGUAGE.md, then for NODE_ID.md, which is English.
    """
    return {
        "en": (DOCS / f"{node_id}.md").read_text("utf-8"),
        "zh": (DOCS / node_id / "zh.md").read_text("utf-8"),
    }


def test_help_describes_every_input_and_output(schemas: dict) -> None:
    chinese = read_translation("zh")
    for node_id, node in schemas.items():
        for language, page in read_pages(node_id).items():
            items = re.findall(r"^- ([^(:（：]*[^(:（：\s])", page, re.MULTILINE)
            title = page.splitlines()[0]
            assert title == "# " + (node if language == "en" else chinese[node_id])["display_name"]
            for kind in ("inputs", "outputs"):
                for key, entry in node[kind].items():
                    name = f"`{entry['name']}`"
                    if language == "zh":
                        name = f"{chinese[node_id][kind][key]['name']} {name}"
                    assert name in items, f"{language} page of {node_id}"


def test_help_has_its_pictures_and_no_others(schemas: dict) -> None:
    shown = set()
    for node_id in schemas:
        by_language = [
            re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page) for page in read_pages(node_id).values()
        ]
        assert by_language[0] == by_language[1]
        shown.update(by_language[0])
    assert shown == {f"pictures/{file.name}" for file in (DOCS / "pictures").iterdir()}


def test_help_is_small() -> None:
    sizes = {file: file.stat().st_size for file in (PACK / "web/docs").rglob("*") if file.is_file()}
    assert max(sizes.values()) <= 60_000
    assert sum(sizes.values()) <= 600_000
    assert {file.suffix for file in sizes} == {".md", ".webp"}
