"""Long lists, page by page: what the address asks for, and the addresses of the other pages."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator

Json = dict[str, Any]

PAGE = 50  # rows, where a list does not say


def query(given: Mapping[str, str], **changed: str) -> str:
    """Return `given` with what is `changed` as the end of an address; "?" where it is empty."""
    chosen = {key: value for key, value in {**given, **changed}.items() if value}
    return f"?{urlencode(chosen)}"


def paged(rows: Any, given: Mapping[str, str], key: str = "page", size: int = PAGE) -> Json:
    """Return the page of `rows`, a sequence or a query, that `key` of an address asks for.

    What is no page is the nearest one, or the first. `parts/pages.html` draws the links.
    """
    page = Paginator(rows, size).get_page(given.get(key) or 1)
    pages = page.paginator.num_pages

    def link(number: int) -> str:
        return query(given, **{key: str(number) if number > 1 else ""})

    return {
        "rows": list(page.object_list),
        "total": page.paginator.count,
        "first": page.start_index(),
        "last": page.end_index(),
        "page": page.number,
        "pages": pages,
        "earlier": link(page.number - 1) if page.has_previous() else "",
        "later": link(page.number + 1) if page.has_next() else "",
        "start": link(1),
        "end": link(pages),
    }
