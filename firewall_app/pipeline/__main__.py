"""Prints a page of the documentation: `python -m firewall_app.pipeline [counts]`."""

import sys

from . import counts_page, pages

PAGES = {(): pages.page, ("counts",): counts_page.page}

page = PAGES.get(tuple(sys.argv[1:]))
if page is None:
    sys.exit("usage: python -m firewall_app.pipeline [counts]")
print(page(), end="")
