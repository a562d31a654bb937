"""Reports: one self-contained HTML file an executed notebook, an index of a profile, one of all profiles.

Everything a page needs is inside it (styles, images, the few lines of script), so it opens
without a network and can be mailed. What the index says of a notebook is taken from its
cells, by tag:

- `finding`: each non-empty line that the cell prints (stdout), and the plain text of what
  it displays without HTML or image, is a sentence of the index; the first `MAX_FINDINGS`
  of a notebook are shown. In the report these lines are set as prose.
- `headline`: the first image of such cells is the figure of the index, where no question of
  `ctlib.analysis.findings` has left one.
- `optional`: a section whose code is all tagged so, and showed nothing, is left out of the page.

A cell may leave a result (`figures.result`): the table that its page begins with is then that of the index, too.
"""

from ctlib.cli.reports.index_page import everything, index, profiles
from ctlib.cli.reports.page import remote_addresses, render
from ctlib.cli.reports.pdf import print_pdf
from ctlib.cli.reports.executed import ReportError, Executed, duration

__all__ = ["ReportError", "Executed", "duration", "everything", "index", "print_pdf", "profiles", "remote_addresses", "render"]
