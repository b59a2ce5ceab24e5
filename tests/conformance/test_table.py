"""docs/conformance.md lists what the tests show, and names no test that is not there."""

from __future__ import annotations

from .table import DIFFERENT, ELSEWHERE, PAGE, ROOT, SECTIONS, page, statements


def test_the_table_is_up_to_date() -> None:
    """Else: `python -m tests.conformance.table`."""
    assert PAGE.read_text() == page(), "write it anew: .venv/bin/python -m tests.conformance.table"


def test_every_test_that_is_named_exists() -> None:
    """Tests elsewhere are found by their name in their file."""
    for section, statement, test in ELSEWHERE:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert section in SECTIONS, statement
        assert not name or f"def {name}(" in text, test


def test_every_section_is_covered() -> None:
    """Each section has a test or a reason why there is none."""
    shown = {section for section, _, _ in (*statements(), *ELSEWHERE, *DIFFERENT)}
    assert shown == set(SECTIONS)
