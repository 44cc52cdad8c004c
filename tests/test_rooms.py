"""The house: every module lies in a room, and a room imports only from rooms below it (docs/explanation/rooms.md)."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "common data quality ldm generator training editing expansion mixing evaluation ablation api cli dataset_conversion trainers"
).split()  # from the ground up; the last two are entry points of nnU-Net
FORWARDERS = {f"nnunet_sbldm.{name}" for name in ("mixin", "study_runner", "study_steps", "study_surface")}
"""Old places that users' trainers, studies in progress and SLURM scripts name; they go with the next release."""
SOURCES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts): p.read_text(encoding="utf-8")
    for folder in ("nnunet_sbldm", "dataset_conversion", "trainers")
    for p in (ROOT / folder).rglob("*.py")
}
for forwarder in FORWARDERS:
    del SOURCES[forwarder]


def room(module):
    """The room of a module; "" is the ground: the package's face, types, the start-up hook."""
    return next((part for part in module.split(".") if part in ROOMS), "")


def imports(module, sources):
    """Modules of ours that a module imports: at its top, within functions, and for types alike."""
    for node in ast.walk(ast.parse(sources[module])):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nnunet_sbldm":
            name = node.module.removeprefix("nnunet_sbldm.") if "dataset_conversion" in node.module else node.module
            whole = [f"{name}.{a.name}" for a in node.names if f"{name}.{a.name}" in sources]
            yield from whole or [name]


def climbs(sources):
    """Imports that go up."""
    floor = {"": -1} | {name: i for i, name in enumerate(ROOMS)}
    return [f"{m} -> {i}" for m in sources for i in imports(m, sources) if floor[room(i)] > floor[room(m)]]


def circle(sources):
    """Modules that import each other in a circle; empty if there is none."""
    try:
        TopologicalSorter({m: set(imports(m, sources)) - {m} for m in sources}).prepare()
    except CycleError as e:
        return e.args[1]
    return []


def full_faces(sources):
    """Rooms whose ``__init__`` is more than a docstring."""
    faces = {m: text for m, text in sources.items() if m.endswith(".__init__") and m != "nnunet_sbldm.__init__"}
    return [m for m, text in faces.items() if len(ast.parse(text).body) != 1 or not ast.get_docstring(ast.parse(text))]


def test_a_room_imports_only_from_rooms_below_it():
    assert climbs(SOURCES) == []


def test_no_modules_form_a_circle():
    assert circle(SOURCES) == []


def test_the_face_of_a_room_is_its_docstring():
    assert full_faces(SOURCES) == []


def test_every_module_lies_in_a_room_or_on_the_ground():
    on_the_ground = {m for m in SOURCES if not room(m)}
    assert on_the_ground == {"nnunet_sbldm.__init__", "nnunet_sbldm.types", "nnunet_sbldm._startup"}


@pytest.mark.parametrize(
    ("module", "line", "find"),
    [
        ("nnunet_sbldm.data.grid", "from nnunet_sbldm.mixing.mixin import SBLDMMixin", climbs),
        ("nnunet_sbldm.data.folds", "from nnunet_sbldm.data.fingerprints import fingerprints_of", circle),
        ("nnunet_sbldm.ldm.__init__", "from nnunet_sbldm.ldm.diffusion import sample", full_faces),
    ],
    ids=["upward import", "circle", "full face"],
)
def test_a_planted_fault_is_found(module, line, find):
    assert find({**SOURCES, module: f"{SOURCES[module]}\n{line}\n"})


# --- sizes ---------------------------------------------------------------------------------------------------------


MAX_FUNCTION_P90, MAX_FUNCTION, MAX_FILE_MEDIAN, MAX_FILE = 25, 60, 150, 350
MAX_ARGUMENTS, MAX_EXCEPTIONS = 6, 5
REASON = "# more than six arguments: "
"""Begins the comment, above a function or within it, that says why it takes so many."""


def functions(source):
    """Every function of a file, as its node and the lines from the one above it to its end."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield node, lines[max(first - 2, 0) : node.end_lineno]


def lengths_of_functions(sources):
    """Lines of each function, the longest first."""
    named = [(f"{module}.{f.name}", f) for module, text in sources.items() for f, _ in functions(text)]
    return sorted(((f.end_lineno - f.lineno + 1, name) for name, f in named), reverse=True)


def lengths_of_files(sources):
    """Lines of each file, the longest first."""
    return sorted(((len(text.splitlines()), module) for module, text in sources.items()), reverse=True)


def num_arguments(function):
    """Arguments that a caller can give."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([a for a in arguments if a.arg not in ("self", "cls")])


def many_arguments(sources, *, with_reason):
    """Functions with too many arguments, those that give a reason or those that do not."""
    return [
        f"{module}.{f.name}: {num_arguments(f)}"
        for module, text in sources.items()
        for f, lines in functions(text)
        if num_arguments(f) > MAX_ARGUMENTS and any(line.strip().startswith(REASON) for line in lines) is with_reason
    ]


def test_functions_are_short():
    lengths = lengths_of_functions(SOURCES)
    tenth = lengths[: len(lengths) // 10]
    assert tenth[-1][0] <= MAX_FUNCTION_P90, tenth
    assert [long for long in lengths if long[0] > MAX_FUNCTION] == []


def test_files_are_short():
    lengths = lengths_of_files(SOURCES)
    assert lengths[len(lengths) // 2][0] < MAX_FILE_MEDIAN, lengths[: len(lengths) // 2]
    assert [long for long in lengths if long[0] > MAX_FILE] == []


def test_functions_take_few_arguments_or_say_why_not():
    assert many_arguments(SOURCES, with_reason=False) == []
    assert len(many_arguments(SOURCES, with_reason=True)) <= MAX_EXCEPTIONS, many_arguments(SOURCES, with_reason=True)


def test_too_long_and_too_many_are_found():
    arguments = ", ".join("abcdefg")
    planted = {"m": f"def long({arguments}):\n" + "    pass\n" * 400, "n": f"{REASON}maths\ndef short({arguments}):\n    pass\n"}
    assert lengths_of_functions(planted) == [(401, "m.long"), (2, "n.short")]
    assert lengths_of_files(planted) == [(401, "m"), (3, "n")]
    assert many_arguments(planted, with_reason=False) == ["m.long: 7"]
    assert many_arguments(planted, with_reason=True) == ["n.short: 7"]
