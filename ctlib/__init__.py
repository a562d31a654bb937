"""ctlib: the work behind the notebooks, in ten rooms on six floors. A room imports from lower floors only.

| floor | room | for |
|---|---|---|
| 6 | `ctlib.cli` | the command line, notebooks as it executes them, reports |
| 5 | `ctlib.analysis` | the questions of a report, the claims, the plan that was fixed beforehand |
| 5 | `ctlib.grid` | many runs: which there are, what they will take, where they execute |
| 4 | `ctlib.training` | one finetuning or pretraining |
| 4 | `ctlib.visualization` | figures, small tables, the viewer |
| 3 | `ctlib.datasets` | cohorts and videos: stored, split by patient, cut into clips; made-up ones |
| 2 | `ctlib.io` | DICOM, NIfTI, MetaImage and NRRD files to volumes in HU |
| 2 | `ctlib.models` | networks by key, and the weights that they begin from |
| 2 | `ctlib.metrics` | scores, effects and intervals |
| 1 | `ctlib.core` | HU windows, schemas of tables, places of files, parameters, locks |

`ctlib.volumes` (`Volume`, `read_series`, `scan`) and `ctlib.viewer` (`show`, `compare`, `browse`) are short names.
"""

__version__ = "0.1.0"
