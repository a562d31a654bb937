"""A volume handed to itkwidgets 1.0a, which loads its viewer from a network when it is shown."""

from __future__ import annotations

import importlib
import socket
from types import ModuleType
from typing import Any

from ctlib.core import HuWindow
from ctlib.visualization.viewer.layers import contours
from ctlib.visualization.viewer.scene import Scene

PACKAGES = ("itkwidgets", "imjoy_jupyterlab_extension", "ngff_zarr")
"""Modules that must be there: itkwidgets[lab] brings the other two."""
HOST = "bafybeieiqiiwvdq66e2bndws5nwojbe4wwerbxyua6u37axxivi2rwf7wy.ipfs.dweb.link"
"""From where itkwidgets 1.0a55 loads its viewer (its module `viewer_config`)."""
TIMEOUT_S = 3.0
INSTEAD = 'use viewer="niivue", or viewer="itk" after `make itk-viewer`; both need no network.'


class ItkwidgetsMissing(RuntimeError):
    """A package or the network is missing; the sentence says which, and what to use instead."""


def _modules() -> list[ModuleType]:
    found = []
    for name in PACKAGES:
        try:
            found.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            raise ItkwidgetsMissing(
                f'viewer="itkwidgets" needs the package {error.name or name}, which is not installed: '
                f"install the extra `itkwidgets` of this project (it needs zarr below 3), or {INSTEAD}"
            ) from None
        except Exception as error:
            raise ItkwidgetsMissing(
                f'viewer="itkwidgets" cannot import {name}: {error}; {INSTEAD}'
            ) from error
    return found


def _reach() -> None:
    try:
        socket.create_connection((HOST, 443), timeout=TIMEOUT_S).close()
    except OSError as error:
        raise ItkwidgetsMissing(
            f'viewer="itkwidgets" loads its viewer from {HOST}, which cannot be reached from here '
            f"({error}): {INSTEAD}"
        ) from error


def arguments(scene: Scene, ngff_zarr: ModuleType) -> dict[str, Any]:
    """What `itkwidgets.view` is called with: image with mm, HU window, and contours as a label map.

    ITK's world points to Left, Posterior, Superior (x, y, z), as our axes do: nothing is turned.
    """
    z, y, x = scene.volume.spacing_mm
    z0, y0, x0 = scene.volume.origin_mm
    grid = {
        "dims": ("z", "y", "x"),
        "scale": {"z": z, "y": y, "x": x},
        "translation": {"z": z0, "y": y0, "x": x0},
    }
    hu_window = HuWindow.named(scene.hu_window)
    given = {
        "image": ngff_zarr.to_ngff_image(scene.volume.hu, **grid),
        "vmin": hu_window.low,
        "vmax": hu_window.high,
        "ui_collapsed": False,
    }
    if scene.marks is not None:
        given["label_image"] = ngff_zarr.to_ngff_image(contours(scene.volume, scene.marks), **grid)
    return given


def show(scene: Scene) -> None:
    """Display a scene with itkwidgets.

    Raises:
        ItkwidgetsMissing: a package is missing, or the network that it loads its viewer from.
    """
    from IPython.display import display

    itkwidgets, _, ngff_zarr = _modules()
    _reach()
    display(itkwidgets.view(**arguments(scene, ngff_zarr)))
