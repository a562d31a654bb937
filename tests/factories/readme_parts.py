"""The README, with what it leads to in docs/, in parts: sections, their code blocks by language, commands."""

import re
import shlex

from ctlib.core.workspace import PROJECT

FILES = (
    "README.md",
    "docs/data.md",
    "docs/networks.md",
    "docs/growing.md",
    "docs/cluster.md",
    "docs/weights.md",
)
README = "\n".join((PROJECT / name).read_text(encoding="utf-8") for name in FILES)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def section(title):
    """The text of a section, without its heading."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


def blocks(title, language=""):
    """The code blocks of a section in a language, in order."""
    return [body for found, body in BLOCK.findall(section(title)) if found == language]


def files(title, language):
    """The blocks whose first line is a comment that names a file: text by what that line says."""
    return {body.splitlines()[0].lstrip("# "): body for body in blocks(title, language)}


def commands(text=README):
    """The lines of blocks without language as arguments, comments left out: all that one can type."""
    bodies = [body.replace("\\\n", " ") for found, body in BLOCK.findall(text) if not found]
    lines = [line for body in bodies for line in body.splitlines()]
    return [parts for line in lines if (parts := shlex.split(line, comments=True))]


def commands_in_prose(text=README):
    """Commands within sentences, as arguments."""
    return [shlex.split(code) for code in re.findall(r"`(ctlib [^`]+)`", BLOCK.sub("", text))]


def own_commands(title):
    """Arguments of `python` that do what the commands of a section do, in order.

    The folder where one is does not come first among the modules (-P), as in the script `ctlib`.
    """
    return [["-P", "-m", *parts] for parts in commands(section(title)) if parts[0] == "ctlib"]
