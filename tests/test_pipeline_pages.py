"""The page that is printed from the code."""

from pathlib import Path

from firewall_app.pipeline.pages import example, page
from firewall_app.pipeline.tables import REGISTERS, TABLES

PAGE = Path(__file__).parent.parent / "docs" / "pipeline.md"


def test_the_committed_page_is_what_the_code_prints():
    assert PAGE.read_text() == page(), "docs/pipeline.md is stale: run `make docs`"


def test_every_table_register_and_unit_is_on_it():
    text = page()
    for table in TABLES:
        assert f"### Table {table.name} (id {table.id})" in text
    for register in REGISTERS:
        assert f"`{register.where.text}`" in text
    for unit in example()[1].values():
        assert f"### {type(unit).__name__}" in text
        for flow in unit.flows():
            assert flow.text in text
