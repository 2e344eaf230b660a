"""The two READMEs agree, and the link targets of all pages exist."""

import re

import pandas as pd
import pytest

from tests.commands import ROOT

ENGLISH, KOREAN = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")
)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"]


@pytest.mark.parametrize(
    "part",
    [r"^```.*?^```$", r"^(#+) ", r"!\[[^\]]*\]\(([^)]*)\)"],
    ids=["commands", "headings", "pictures"],
)
def test_both_languages_have_the_same(part):
    english, korean = (re.findall(part, text, re.M | re.S) for text in (ENGLISH, KOREAN))
    assert len(english) >= 2
    assert english == korean


def test_both_languages_name_the_same_things():
    english, korean = (
        {" ".join(name.split()) for name in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)}
        for text in (ENGLISH, KOREAN)
    )
    assert english == korean


def test_both_languages_have_the_same_numbers_in_tables():
    def numbers(text: str) -> list[list[str]]:
        rows = [line for line in text.splitlines() if line.startswith("|")]
        return [re.findall(r"\d[\d,.]*", row) for row in rows]

    assert sorted(map(sorted, numbers(ENGLISH))) == sorted(map(sorted, numbers(KOREAN)))


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_the_accuracies_over_seeds_are_those_that_were_measured(page):
    files = [ROOT / f"metrics/{preset}/seeds.csv" for preset in ("book", "efficientnet")]
    rows = pd.concat([pd.read_csv(file).assign(preset=file) for file in files])
    accuracy = rows.groupby(["preset", "model", "weights"], dropna=False)["test_accuracy"]
    measured = (100 * accuracy.agg(["mean", "std"])).to_numpy()
    text = (ROOT / page).read_text(encoding="utf-8")
    told = re.findall(r"^\| .*?\*\*([\d.]+) ± ([\d.]+) %\*\*", text, re.M)
    assert len(told) >= 9
    for both in told:
        half = 0.5001 * 10.0 ** -len(both[0].partition(".")[2])
        assert (abs(measured - [float(each) for each in both]) <= half).all(axis=1).any(), both


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = page.parent / path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            # GitHub drops a heading's punctuation.
            plain = (re.sub(r"[^\w -]", "", heading.lower()) for heading in headings)
            assert anchor in {heading.replace(" ", "-") for heading in plain}
