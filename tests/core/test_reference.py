"""docs/reference/flags.md is what the declarations of the flags say."""

from scripts import make_reference


def test_the_page_of_flags_is_up_to_date():
    assert make_reference.PAGE.read_text() == make_reference.page(), "run: python scripts/make_reference.py"


def test_the_page_has_a_row_for_every_flag_and_shows_a_change(monkeypatch):
    page = make_reference.page()
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `--")}
    assert {"--model", "--tuner", "--bootstrap", "--explain", "--formats", "--jpeg_quality", "--spot", "--f"} <= rows
    monkeypatch.setattr(make_reference, "help_of", lambda field: "Something else.")
    assert make_reference.page() != page
