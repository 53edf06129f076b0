"""The project itself: the wheel carries the catalog, the house keeps its floors."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "slmchat"

# Libraries with one door each (docs/decisions.md).
DOORS = {
    "llama_cpp": {"engine/native.py"},
    "huggingface_hub": {"catalog/hub_client.py", "catalog/hub_errors.py"},
    "prompt_toolkit": {
        "terminal/line_editor.py",
        "terminal/completion.py",
        "terminal/input_history.py",
        "terminal/pastes.py",
        "terminal/picker.py",
        "terminal/key_input.py",
        "terminal/line_keys.py",
        "terminal/prompt_session.py",
    },
    "rich": {"terminal/console.py"},
    "sqlite3": {"database.py", "conversation/foreign_formats.py"},
    "yaml": {"conversation/foreign_formats.py"},
    "tomlkit": {"catalog/user_file.py"},
    "typer": {"cli.py", "commands/command_line.py"},
    "PIL": {"conversation/pictures.py"},
    "pypdf": {"retrieval/loaders/pdf.py"},
    "markdown_it": {"conversation/code_blocks.py"},
    "numpy": {"engine/probabilities.py", "engine/shortlist.py", "retrieval/vectors.py"},
    "jinja2": {
        "conversation/compiled_template.py",
        "conversation/prompt_template.py",
        *(f"conversation/template_{part}.py" for part in ("sandbox", "metering", "values", "methods", "filters")),
    },
}
# The floors, from the ground up. A room imports itself and lower floors; rooms of one floor do not know each other.
GROUND = {"errors", "settings", "ranges", "personas", "private_files", "hardware", "redaction", "reporting", "sanitize"}
GROUND |= {
    "safe_json",
    "schemas",
    "endpoints",
    "toml_files",
    "toml_schema",
    "text_files",
    "user_paths",
    "file_locks",
    "wording",
    "signals",
    "options",
    "option_fields",
    "database",
}
GROUND |= {
    "invisible",
    "lazy_dataclasses",
    "lazy_patterns",
    "bounded_patterns",
    "interpreter",
    "file_hashes",
    "kept_json",
    "archives",
}
FLOORS = (
    {"engine"},
    {"conversation", "catalog", "privacy"},
    {"fit"},
    {"models"},
    {"generation"},
    {"diagnostics", "retrieval", "evaluation"},
    {"terminal"},
    {"api", "server", "commands"},
    {"cli"},
    {"__main__", "__init__"},
)
USE_CASES = {"models", "generation", "diagnostics", "retrieval", "evaluation"}
# How people and programs are talked to is the business of the doors.
DOORS_ONLY = {"typer", "click", "rich", "prompt_toolkit", "signal"}


def _floor(room: str) -> int:
    return -1 if room in GROUND else next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@dataclass(frozen=True)
class Source:
    """A file of the package: what its rules ask about, read once."""

    place: str
    module: str
    docstring: str | None
    imports: tuple[str, ...]  # those inside functions too
    classes: tuple[str, ...]  # public ones, at the top
    names: frozenset[str]  # of functions, classes, parameters, variables and attributes
    texts: tuple[str, ...]

    @property
    def room(self) -> str:
        return self.place.partition("/")[0].removesuffix(".py")


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [_read(file) for file in sorted(PACKAGE.rglob("*.py"))]


_NAME_OF = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.ClassDef: "name", ast.FunctionDef: "name"}


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """As `ast.walk`, in another order and without `ctx`, a third of all nodes: 500,000 of them take a second."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                todo += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST) and field != "ctx":
                todo.append(value)


def _read(file: Path) -> Source:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports: list[str] = []
    names: set[str] = set()
    texts: list[str] = []
    for node in _nodes(tree):
        kind = type(node)
        if kind in _NAME_OF:
            names.add(getattr(node, _NAME_OF[kind]))
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                texts.append(node.value)
        elif isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports += [f"{node.module}.{alias.name}" for alias in node.names]
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    return Source(
        file.relative_to(PACKAGE).as_posix(),
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"),
        ast.get_docstring(tree),
        tuple(imports),
        tuple(classes),
        frozenset(names),
        tuple(texts),
    )


@pytest.mark.real
def test_the_wheel_carries_the_catalog_and_nothing_else_beside_the_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("slmchat/models.toml") == (ROOT / "models.toml").read_bytes()
        suite = ROOT / "slmchat" / "evaluation" / "suite"
        tasks = {str(file.relative_to(ROOT)) for file in suite.rglob("*.*")}
        assert len(tasks) > 20 and tasks <= set(names)
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert b"slm = slmchat.__main__:main" in archive.read(entry)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"slmchat"}


def test_imports_go_down_and_libraries_have_one_door(sources: list[Source]) -> None:
    assert [
        f"{source.place} imports {name}" for source in sources for name in source.imports if _is_wrong(source, name)
    ] == []


def _is_wrong(source: Source, name: str) -> bool:
    library, _, rest = name.partition(".")
    if library in DOORS and source.place not in DOORS[library]:
        return True
    if library in DOORS_ONLY and source.room in USE_CASES:
        return True
    if library != "slmchat" or not rest or rest == "__version__":
        return False
    target = rest.partition(".")[0]
    is_lower = _floor(target) < _floor(source.room) or (target in GROUND and source.room in GROUND)
    starts_door = source.place == "commands/serve.py" and target == "server"  # what it is there for
    return not (is_lower or target == source.room or starts_door)


def test_no_circle_of_imports(sources: list[Source]) -> None:
    """Imports inside functions counted: a circle means that two modules are one, or that a third is missing."""
    modules = {source.module: source for source in sources if source.place != "__init__.py"}
    graph = {
        name: {target for imported in source.imports if (target := _target(imported, modules)) not in (None, name)}
        for name, source in modules.items()
    }
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not graph, "these stand in a circle, or on one: " + ", ".join(sorted(graph))


def _target(imported: str, modules: dict[str, Source]) -> str | None:
    """The module that `from a import b` (a.b) reads: b where it is a module, else a."""
    return next((name for name in (imported, imported.rpartition(".")[0]) if name in modules), None)


def test_modules_say_what_they_know(sources: list[Source]) -> None:
    assert [source.place for source in sources if not source.docstring] == []


def test_lint_and_types_are_configured_for_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert "strict = true" in text
    assert 'files = ["slmchat"]' in text


def test_every_library_that_is_imported_is_declared(sources: list[Source]) -> None:
    """No hidden dependency: what happens to come along with another library today may not come tomorrow."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=~!\[; ]", entry)[0].lower().replace("-", "_") for entry in declared}
    modules = {"llama_cpp": "llama_cpp_python", "PIL": "pillow", "markdown_it": "markdown_it_py", "yaml": "pyyaml"}
    used = {name.partition(".")[0] for source in sources for name in source.imports}
    used -= {*sys.stdlib_module_names, "slmchat", "_sha2", "_sha256"}  # SHA-256 of Python 3.12 and later, and of 3.11
    foreign = {modules.get(name, name).lower() for name in used}
    # the transport of huggingface_hub 1.x and 2.x: its exceptions are caught where the Hub's client lets them through
    assert foreign - {"httpx", "httpx2"} <= names
    assert names - {"llama_cpp_python"} <= foreign  # imported by name, in engine/native.py


# Names that the house once had for what the field has a word for (docs/contributing.md).
OLD_WORDS = {
    "Asker", "Talk", "Desk", "Listening", "Unseen", "Chance", "Stretch", "Tally", "Patient", "Delivery", "Choosing",
    "Outlook", "Opening", "Shape", "Question", "n_alternatives", "chances", "goes_back", "laid", "is_half_nothing",
    "suspects", "on_trial", "witness", "ways_out", "ways_around", "prior_of", "wanted_of", "satisfied", "check_sees",
    "SHAPE", "ShapeOptions", "ShapedCompletions", "shape_options", "is_shaped", "shaped",
}  # fmt: skip
# An answer has a format. What has a shape is a tensor, or a model as fit/ sees it.
OLD_TEXT = re.compile(
    r"\bshaped?\b[\w ]{0,20}\banswer|\banswers?\b[\w ]{0,20}\bshape|\bof a (given )?shape", re.IGNORECASE
)


def test_names_are_the_words_of_the_field(sources: list[Source]) -> None:
    named = {source.place: source.names & OLD_WORDS for source in sources}
    assert {place: words for place, words in named.items() if words} == {}
    assert [(source.place, text) for source in sources for text in source.texts if OLD_TEXT.search(text)] == []


def test_a_public_class_name_stands_once(sources: list[Source]) -> None:
    where: dict[str, list[str]] = {}
    for source in sources:
        for name in source.classes:
            where.setdefault(name, []).append(source.place)
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_nothing_lies_beside_the_house() -> None:
    """A file that somebody measured with, and added with the rest."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    top = {name.partition("/")[0] for name in told.stdout.split("\0") if name and not name.startswith(".")}
    assert top == {"LICENSE", "README.md", "docs", "models.toml", "pyproject.toml", "slmchat", "tests"}
