"""ITK's viewers: itk-vtk-viewer in a frame of the notebook, served from this machine and to it only.

`make itk-viewer` fetches it once; after that no network is needed. The server is a thread of the
kernel and ends with it. What it serves lies under a path that cannot be guessed. itkwidgets 1.0a, which loads
its viewer from a network when it is shown, is here too.
"""

from __future__ import annotations

import functools
import importlib
import secrets
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from IPython.display import IFrame, display

from ctlib.core import HuWindow
from ctlib.visualization.viewer.niivue import nifti
from ctlib.visualization.viewer.panel import ASSETS
from ctlib.visualization.viewer.scene import Scene, contours

DIST = Path(sys.prefix) / "share" / "itk-vtk-viewer" / "dist"
"""Where `make itk-viewer` unpacks it."""
N_SERVED = 4
"""Exams that stay served: the ones shown last. Each is as large in memory as two of its volumes."""


class ItkMissing(FileNotFoundError):
    """itk-vtk-viewer was not fetched; the sentence says how to."""


@dataclass
class Server:
    """Serves the viewer's files, its page, and NIfTI files from memory, on 127.0.0.1.

    Args:
        dist: folder of the viewer's files.
    """

    dist: Path
    files: dict[str, bytes] = field(default_factory=dict)
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def __post_init__(self) -> None:
        server = self

        class Handler(SimpleHTTPRequestHandler):
            """Files of the viewer below the secret path, and nothing else."""

            def __init__(self, *args: Any, **kw: Any) -> None:
                super().__init__(*args, directory=str(server.dist), **kw)

            def do_GET(self) -> None:
                found = server.path_of(self.path)
                if found is None:
                    self.send_error(404)
                elif found in server.files:
                    self.answer(server.files[found], "application/octet-stream")
                elif found == "":
                    self.answer((ASSETS / "itk.html").read_bytes(), "text/html; charset=utf-8")
                else:
                    self.path = f"/{found}"
                    super().do_GET()

            def do_HEAD(self) -> None:
                self.send_error(405)

            def list_directory(self, path: Any) -> None:
                self.send_error(404)

            def answer(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Nothing: it would be printed below whichever cell runs."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, name="itk-vtk-viewer", daemon=True).start()

    def path_of(self, url: str) -> str | None:
        """What is asked for, without the secret path; None where that is wrong."""
        path = urlsplit(url).path
        return path.removeprefix(f"/{self.secret}/") if path.startswith(f"/{self.secret}/") else None

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/{self.secret}/"

    def put(self, files: Mapping[str, bytes]) -> None:
        """Serve these files too; the oldest go."""
        self.files.update(files)
        for name in list(self.files)[: -2 * N_SERVED]:
            self.files.pop(name)

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()


@functools.cache
def _server(dist: Path) -> Server:
    """The one server of this kernel; its thread ends with the kernel."""
    return Server(dist)


def page(scene: Scene, dist: Path = DIST) -> str:
    """Serve a scene and return the address of its page.

    The volume goes as float32: the viewer takes integers with at most 64 values for a label map. The
    readers' contours go as the label map that they are.

    Raises:
        ItkMissing: the viewer was not fetched.
    """
    if not (dist / "itkVtkViewer.js").is_file():
        raise ItkMissing(
            f"itk-vtk-viewer is not in {dist}: run `make itk-viewer` once, where there is a network, "
            'or use viewer="niivue".'
        )
    server = _server(dist)
    name = secrets.token_hex(4)
    volume = f"{name}-ct.nii"
    files = {volume: nifti(scene.volume, scene.volume.hu.astype(np.float32))}
    hu_window = HuWindow.named(scene.hu_window)
    query = f"?fileToLoad={server.address}{volume}&hu={hu_window.low:g},{hu_window.high:g}"
    if scene.marks is not None:
        files[f"{name}-marks.nii"] = nifti(scene.volume, contours(scene.volume, scene.marks))
        query += f"&labelImage={server.address}{name}-marks.nii"
    server.put(files)
    return server.address + query


def show(scene: Scene, height_px: int = 480) -> str:
    """Display a scene in a frame; returns its address.

    Raises:
        ItkMissing: the viewer was not fetched.
    """
    address = page(scene)
    display(IFrame(address, "100%", height_px, extras=['title="itk-vtk-viewer"']))
    return address


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


def show_itkwidgets(scene: Scene) -> None:
    """Display a scene with itkwidgets.

    Raises:
        ItkwidgetsMissing: a package is missing, or the network that it loads its viewer from.
    """
    itkwidgets, _, ngff_zarr = _modules()
    _reach()
    display(itkwidgets.view(**arguments(scene, ngff_zarr)))
