"""The ledger: one row a tensor, and the comparison of a file's tensors with a network's, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from torch import nn

from ctlib.core import tables
from ctlib.models.weights.catalog import InitError


def compare(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse tensors that are missing, unexpected, or of another shape or type, by their names.

    Args:
        wanted: the network's tensors.
        given: the file's, under the same names.
        where: what the message begins with.

    Raises:
        InitError: they do not fit.

    >>> compare({"a": torch.zeros(2)}, {"b": torch.zeros(2)}, "x.pth")
    Traceback (most recent call last):
    ...
    ctlib.models.weights.read.InitError: x.pth: tensors do not fit the network; 1 missing: a; 1 unexpected: b.
    """
    names = {"missing": wanted.keys() - given.keys(), "unexpected": given.keys() - wanted.keys()}
    names["of another shape or type"] = {
        f"{name} ({shape(given[name])} {given[name].dtype} for {shape(tensor)} {tensor.dtype})"
        for name, tensor in wanted.items()
        if name in given and (given[name].shape != tensor.shape or given[name].dtype != tensor.dtype)
    }
    problems = [f"{len(found)} {kind}: {_listed(found)}" for kind, found in names.items() if found]
    if problems:
        raise InitError(f"{where}: tensors do not fit the network; {'; '.join(problems)}.")


def _listed(names: Iterable[str], most: int = 8) -> str:
    """Names in order, the first few."""
    first, rest = sorted(names)[:most], sorted(names)[most:]
    return ", ".join(first) + (f" and {len(rest)} more" if rest else "")


def shape(tensor: torch.Tensor) -> str:
    """How tables and messages tell the shape of a tensor.

    >>> shape(torch.zeros(8, 1, 7)), shape(torch.tensor(1))
    ('8x1x7', 'scalar')
    """
    return "x".join(map(str, tensor.shape)) or "scalar"


def checksum(tensor: torch.Tensor) -> str:
    """First 16 hex digits of the SHA-256 of a tensor's values, in row-major order.

    >>> checksum(torch.tensor([0.0, 1.0])), checksum(torch.tensor([[0.0], [1.0]]))
    ('22b6f43bd8d27738', '22b6f43bd8d27738')
    """
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def rows(
    made: nn.Module, about: Mapping[str, tuple[str, str]], status: str, why: str, **columns: str
) -> pd.DataFrame:
    """Table `ledger`: one row a tensor of the network as it is in memory, batch-norm statistics included.

    Args:
        made: the network.
        about: tensors whose status and reason differ from the others', by name.
        status: of all others.
        why: of all others.
        columns: backbone and init, the same in every row.
    """
    told = []
    for name, tensor in made.state_dict().items():
        its_status, reason = about.get(name, (status, why))
        told.append((name, shape(tensor), tensor.numel(), its_status, reason, checksum(tensor)))
    table = pd.DataFrame(told, columns=["tensor", "shape", "n_parameters", "status", "why", "checksum"])
    return tables.check(table.assign(**columns), "ledger")
