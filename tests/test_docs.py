"""The documentation: links lead somewhere, commands parse, pages that follow from the code are what the code says."""

import argparse
import ast
import csv
import importlib.util
import json
import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from nnunet_sbldm.mixing.settings import MixingSettings

ROOT = Path(__file__).parent.parent
DOCS = sorted(ROOT.glob("docs/**/*.md"))
MANUAL = [ROOT / "README.md", *DOCS]
PAGES = [*MANUAL, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("benchmarks/**/README.md"))]
DIARY = re.compile(r"\b(as (they are |it is )?made now|mended|since then|as it was then|as they were then)\b", re.IGNORECASE)
SPEC = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)
PARSERS = {name: generate.parser_of(name) for name in generate.commands()}


def name_of(page):
    return str(page.relative_to(ROOT))


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def code_blocks(page, *languages):
    """The content of the fenced blocks of a page in one of ``languages``."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [content for language, content in blocks if language in languages]


def anchors(page):
    """Anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def broken_links(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        path, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_a_page_and_a_heading(page):
    assert broken_links(page) == []


def test_a_broken_link_and_a_missing_heading_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# One heading\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#one-heading) [b](other.md#no) [c](nothing.md) `[d](code.md)`\n")
    assert broken_links(page) == ["other.md#no", "nothing.md"]


def test_every_page_is_in_the_navigation_of_the_site():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [p for value in (entry.values() if isinstance(entry, dict) else entry) for p in pages(value)]

    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    others = ["CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/results/README.md"]
    assert sorted(pages(nav)) == sorted([*map(name_of, MANUAL), *others])


# --- commands ---------------------------------------------------------------------------------------------------------


def command_lines(text):
    """Every command of ours in shell code, as (command, arguments); variables of the shell count as 0."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(re.sub(r"\$\{?\w+\}?", "0", line.replace('"$(sbldm_trainers)"', "0")), comments=True)
        while words:
            end = next((n for n, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
            one, words = words[:end], words[end + 1 :]
            start = next((n for n, word in enumerate(one) if word.rsplit("/", 1)[-1] in PARSERS), None)
            if start is not None:
                yield one[start].rsplit("/", 1)[-1], one[start + 1 :]


def refusal(command, arguments):
    """What the parser of a command says against the arguments; None if it takes them."""
    try:
        PARSERS[command].parse_args(arguments)
    except SystemExit as e:
        return f"{command} {shlex.join(arguments)}: exit code {e.code}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_parse(page):
    lines = [line for block in code_blocks(page, "bash", "") for line in command_lines(block)]
    assert [r for command, arguments in lines if (r := refusal(command, arguments))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_named_in_the_text_exist(page):
    spans = re.findall(r"`(sbldm_\w+ [^`\n]+)`", page.read_text())
    wrong = []
    for command, arguments in (line for span in spans for line in command_lines(span)):
        known = PARSERS[command]._option_string_actions
        wrong += [f"{command} {a}" for a in arguments if re.match(r"--?[a-zA-Z]", a) and a not in known]
    assert wrong == []


def test_a_wrong_option_is_found():
    (line,) = command_lines("FOO=1 .venv/bin/sbldm_train -d 4 -f 0 -nonsense 3  # a comment\n")
    assert refusal(*line)
    assert [refusal(*line) for line in command_lines("sbldm_train -d 4 \\\n  -f $FOLD && sbldm_models\n")] == [None, None]


def test_every_command_is_explained_somewhere():
    text = "".join(page.read_text() for page in MANUAL if page.name != "commands.md")
    assert [command for command in PARSERS if command not in text] == []


# --- pages that follow from the code ---------------------------------------------------------------------------------


def test_generated_pages_are_fresh():
    stale = [name_of(page) for page in generate.stale_pages()]
    assert stale == [], "run: python docs/generate.py"


def test_the_files_that_the_page_of_the_rooms_names_exist():
    text = (ROOT / "docs" / "explanation" / "rooms.md").read_text()
    named = re.findall(r"`((?:nnunet_sbldm|dataset_conversion)/[\w/.]+)`", text)
    assert len(named) > 15
    assert [n for n in named if not (ROOT / n).exists()] == []


def test_every_room_has_its_line():
    text = (ROOT / "docs" / "explanation" / "rooms.md").read_text()
    rooms = {p.parent.name for p in (ROOT / "nnunet_sbldm").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)) == rooms


def test_every_setting_of_the_trainer_has_its_line():
    text = (ROOT / "docs" / "reference" / "settings.md").read_text().split("\n## ")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == {f.name for f in fields(MixingSettings)}


def keys_of(schema):
    """All names of properties anywhere in a JSON Schema."""
    if isinstance(schema, list):
        return {key for value in schema for key in keys_of(value)}
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", ())) | {key for value in schema.values() for key in keys_of(value)}


@pytest.mark.parametrize(("name", "page"), [("spec", "settings"), ("goals", "settings"), ("study", "study")])
def test_every_key_of_a_file_that_users_write_is_explained(name, page):
    folder = ROOT / "docs" / "reference"
    keys, text = keys_of(json.loads((folder / f"{name}.schema.json").read_text())), (folder / f"{page}.md").read_text()
    assert len(keys) > 4
    assert sorted(k for k in keys if f"`{k}`" not in text and f"`{k}: " not in text) == []


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_code_in_python_and_json_is_valid(page):
    for block in code_blocks(page, "python"):
        ast.parse(block)
    for block in code_blocks(page, "json"):
        json.loads(block if block.lstrip()[0] in "[{" else "{" + block + "}")


def test_the_manual_is_no_diary():
    assert [name_of(page) for page in MANUAL if DIARY.search(page.read_text())] == []


def test_the_readme_keeps_what_newcomers_need():
    text = (ROOT / "README.md").read_text()
    assert "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/sbldm_demo -o demo" in text
    assert "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest" in text
    for word in ("CC BY-NC-SA 4.0", "CC BY-SA 4.0", "nnUNet_extTrainer", "CITATION.cff", "arxiv.org/abs/2406.05421"):
        assert word in text, word


def rounded(row, key, factor, form):
    return [format(factor * float(row[k]), form) for k in (key, f"{key}_low", f"{key}_high")] if row[key] else []


@pytest.mark.parametrize("table", sorted(ROOT.glob("benchmarks/results/*/table.csv")), ids=lambda p: p.parent.name)
def test_tables_of_studies_have_the_numbers_of_their_files(table):
    with table.open() as file:
        known = [(r["arm"], rounded(r, "mean", 1, ".3f"), rounded(r, "difference", 100, "+.1f"))
                 for r in csv.DictReader(file)]
    rows = re.findall(r"^\| \d+ \| `(\w+)`(.*)$", (table.parent / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 2
    for arm, text in rows:
        dice = re.search(r"(\d\.\d{3}) \[(.+?), (.+?)\]", text)
        difference = re.search(r"([+-]\d+\.\d) \[(.+?), (.+?)\]", text)
        said = (arm, list(dice.groups()), list(difference.groups()) if difference else [])
        assert said in known


def test_every_folder_of_results_says_what_it_shows_and_is_listed():
    folders = sorted(p for p in (ROOT / "benchmarks" / "results").iterdir() if p.is_dir())
    overview = (ROOT / "benchmarks" / "results" / "README.md").read_text()
    assert [f.name for f in folders if f"({f.name}/README.md)" not in overview] == []
    for folder in folders:
        text = (folder / "README.md").read_text()
        assert all(f"**{word}:**" in text for word in ("Run", "Seen", "Means")), folder.name


def defaults_that_lie(parser):
    """Options whose help names another default than the parser has."""
    for action in parser._actions:
        said = re.search(r"Default: ([\w.+-]+(?: [\w.]+)*)", action.help or "")
        if said is None or action.default is None or isinstance(action.default, bool):
            continue
        values = action.default if isinstance(action.default, list | tuple) else [action.default]
        wanted = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
        if said[1].rstrip(".") != wanted:
            yield f"{action.option_strings[0]}: help says {said[1]}, the parser {wanted}"


@pytest.mark.parametrize("command", PARSERS)
def test_defaults_in_help_are_those_of_the_parser(command):
    assert list(defaults_that_lie(PARSERS[command])) == []


def test_a_default_that_lies_is_found():
    parser = argparse.ArgumentParser()
    parser.add_argument("-mode", default="edit", help="[OPTIONAL] what to do. Default: generate")
    assert list(defaults_that_lie(parser)) == ["-mode: help says generate, the parser edit"]
