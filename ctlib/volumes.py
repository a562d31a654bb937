"""The short name of `ctlib.io.volume`: `from ctlib.volumes import read_series, scan, Volume`."""

from ctlib.io import OpenSeries, SeriesError, Volume, open_series, read_series, scan, upright

__all__ = ["OpenSeries", "SeriesError", "Volume", "open_series", "read_series", "scan", "upright"]
