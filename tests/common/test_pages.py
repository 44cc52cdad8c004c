"""Pages: every template is whole, HTML is escaped and Markdown is not, and a value that is missing is an error."""

from pathlib import Path

import jinja2
import pytest

from nnunet_sbldm.common import pages

TEMPLATES = sorted(p.name for p in (Path(pages.__file__).parent / "templates").iterdir())


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_valid_and_named_after_what_they_become(name):
    assert name.endswith((".html.j2", ".md.j2", ".css.j2"))
    assert pages._environment().get_template(name)


def test_html_is_escaped_and_markdown_is_not():
    environment = pages._environment()
    assert environment.autoescape("demo_report.html.j2") is True
    assert environment.autoescape("model_card.md.j2") is False


def test_a_missing_value_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'result' is undefined"):
        pages.render("edit_evaluation.html.j2", {"rows": [], "picture": ""})


def test_filters_of_the_model_card():
    assert pages.table_cell("a\n b | c") == r"a b \| c"
    assert (pages.readable(None), pages.readable(0.12345)) == ("", "0.123")
    assert pages.number_range([1.0, 3.0004]) == "1 to 3"
    assert pages.number_range([2.0, 2.0]) == "2"


def test_a_picture_that_is_missing_embeds_nothing(tmp_path):
    assert pages.embedded(None) == pages.embedded(tmp_path / "none.png") == ""
    (tmp_path / "some.png").write_bytes(b"abc")
    assert pages.embedded(tmp_path / "some.png") == "data:image/png;base64,YWJj"
