"""ctlib: the work behind the four notebooks; import its modules by name.

Where to begin, in the order in which one thing builds on another:

| does | modules |
|---|---|
| HU, schemas of tables, places of files | `ctlib.hu`, `ctlib.tables`, `ctlib.workspace` |
| files to volumes, and volumes on disk | `ctlib.volumes`, `ctlib.store`, `ctlib.cohorts` |
| volumes and videos to clips; who is trained on | `ctlib.clips`, `ctlib.videos`, `ctlib.splits` |
| networks and their weights | `ctlib.backbones`, `ctlib.inits`, `ctlib.zoo`, `ctlib.controls` |
| scores, effects and intervals | `ctlib.metrics`, `ctlib.stats`, `ctlib.power` |
| fits, grids of them, and where they run | `ctlib.training`, `ctlib.grid`, `ctlib.plan`, `ctlib.engine` |
| what people look at | `ctlib.figures`, `ctlib.viewer`, `ctlib.findings` |
| notebooks, reports, commands | `ctlib.notebooks`, `ctlib.reports`, `ctlib.commands` |
"""

__version__ = "0.1.0"
