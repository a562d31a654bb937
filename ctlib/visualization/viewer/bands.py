"""The strip below a viewer: bands along z that move the slice when clicked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ctlib.visualization.figures.planes import Band

ASSETS = Path(__file__).parent / "assets"


class Strip(anywidget.AnyWidget):
    """Bands along z, inferior on the left; a click, a drag or an arrow key moves `place`."""

    _esm = ASSETS / "bands.js"
    _css = ASSETS / "bands.css"
    bands: Any = traitlets.List().tag(sync=True)
    n_slices = traitlets.Int(1).tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)

    def load(self, bands: Sequence[Band], n_slices: int, place: int) -> None:
        """Show other bands.

        Args:
            bands: from `Scene.bands`.
            n_slices: slices of the volume.
            place: slice that is shown.
        """
        with self.hold_sync():
            self.bands, self.n_slices = [asdict(band) for band in bands], n_slices
            self.place = place
