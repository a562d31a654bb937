"""Where a call comes from: a page that can show widgets, or nobody who could turn a volume."""

from __future__ import annotations

VIEWERS = ("auto", "niivue", "itk", "itkwidgets", "static")


def is_watched() -> bool:
    """Whether the running cell was sent by a page, at which somebody sits.

    A notebook that is executed (papermill, nbconvert, this project's own command) says in each
    request that nobody can answer (`allow_stdin` of the Jupyter message specification is false);
    JupyterLab and other pages say that somebody can. No variable of the environment tells them
    apart: a kernel of papermill that was started from a terminal or a notebook of JupyterLab
    inherits all of them.
    """
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    request = kernel.get_parent("shell") or {}
    kind = request.get("header", {}).get("msg_type", "")
    # A widget's message comes from a page too, and has no such field.
    return kind == "comm_msg" or bool(request.get("content", {}).get("allow_stdin", False))


def chosen(viewer: str) -> str:
    """The viewer that is used, one of `VIEWERS` but not auto.

    Raises:
        ValueError: there is none of that name.
    """
    if viewer not in VIEWERS:
        raise ValueError(f"viewer is {viewer!r}; known are {', '.join(VIEWERS)}.")
    if not is_watched():
        return "static"
    return "niivue" if viewer == "auto" else viewer
