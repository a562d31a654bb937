"""How well scores tell disease from no disease, for one run, over exams or over clips.

A value that does not exist (one class only, a score that is not a number) is NaN with a
reason, never 0 and never left out in silence: `Metric` carries both.
"""

import lazy_loader

__getattr__, __dir__, _exported = lazy_loader.attach_stub(__name__, __file__)
