"""The documents: links lead somewhere, lines are short, README is quick to read, and every public part has its
example."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "launch/*.md", "benchmarks/*.md", "benchmarks/results/*.md", "kernels/**/*.md")
    for path in ROOT.glob(pattern)
)
PROSE = [path for path in PAGES if path.parent.name != "results"]
WORDS_PER_SENTENCE = 18


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _prose(text: str) -> str:
    """Without code blocks, tables and headings."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("|", "#", "    ", ":::")))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = []
    for link in links:
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists():
            missing.append(link)
        elif anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            missing += [link] * (anchor not in slugs)
    assert not missing


@pytest.mark.parametrize("page", PROSE, ids=_name)
def test_lines_are_at_most_100_characters(page: Path) -> None:
    assert not [line for line in _prose(page.read_text()).splitlines() if len(line) > 100 and " " in line.strip()]


def test_readmes_sentences_are_short() -> None:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", _prose((ROOT / "README.md").read_text()))
    sentences = [sentence.split() for sentence in re.split(r"(?<=[.!?:])\s+|\n\n|\n- ", text)]
    lengths = [len(words) for words in sentences if len(words) > 2]
    assert sum(lengths) / len(lengths) <= WORDS_PER_SENTENCE


def test_files_that_documents_name_are_there() -> None:
    """Paths in code quotes, such as `tests/helpers/ranks.py`."""
    missing = []
    for page in PROSE:
        for place in re.findall(
            r"`((?:dist_rec|kernels|tests|benchmarks|launch|docs)/[\w./-]+\.\w+)`", page.read_text()
        ):
            if not (ROOT / place).exists() and place != "kernels/__init__.py":  # which must not exist
                missing.append(f"{_name(page)}: {place}")
    assert not missing


def test_the_site_has_every_page() -> None:
    listed = set(re.findall(r"^  - ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}
