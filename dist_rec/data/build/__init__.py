"""Requests from flat logs: events, impressions and attribute tables in, a dataset folder out.

`config` says what a build file holds, `build` does one. The tables are joined by DuckDB, out of core."""
