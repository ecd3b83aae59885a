"""A hook of mkdocs: pages that show a file from elsewhere in the tree, and links that work in both.

A page whose front matter says ``include: PATH`` shows that file, which stays where its readers look
for it. Relative links are written for the tree; a link to an included file becomes one to its page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs"

# An image or link with a relative target: what stands before it, the target, its anchor.
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
INCLUDE = re.compile(r"\A---\ninclude: (\S+)\n---\n")


def included() -> dict[Path, Path]:
    """The page of each file that one shows."""
    pages = {}
    for page in sorted(PAGES.glob("*.md")):
        said = INCLUDE.match(page.read_text())
        if said:
            pages[ROOT / said[1]] = page
    return pages


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put what a page shows in its place, and turn its links into the site's."""
    place = Path(page.file.abs_src_path)
    source = place
    if "include" in page.meta:
        source = ROOT / page.meta["include"]
        markdown = source.read_text()
    pages = included()

    def on_the_site(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / link[2]))
        there = os.path.relpath(pages.get(target, target), place.parent)
        return f"{link[1]}{there}{link[3] or ''}"

    return LINK.sub(on_the_site, markdown)
