from . import notebooks as notebooks
from .__main__ import main as main
