"""Versions of what is generated: videos and phantoms. A change of what is drawn raises one.

They stand apart from the generators so that the hash of a plan can cover them without importing these.
A test ties each version to figures of what it draws.
"""

GENERATORS = {"videos": 3, "phantoms": 6}
"""Of `ctlib.datasets.synthetic.video` and `ctlib.datasets.synthetic.ct`: data of another version are written again."""
