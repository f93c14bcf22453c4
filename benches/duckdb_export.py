"""Copies a table of PostgreSQL into a Parquet file with DuckDB. usage: duckdb_export.py CONNECTION FILE, or --check"""
import pathlib
import sys

import duckdb
import duckdb_extension_postgres_scanner


def connect():
    """DuckDB with its reader of PostgreSQL, from the package: nothing is fetched at this point."""
    root = pathlib.Path(duckdb_extension_postgres_scanner.__file__).parent
    extension = next(root.rglob("postgres_scanner.duckdb_extension"))
    link = duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    link.execute(f"load '{extension}'")
    return link


if sys.argv[1] == "--check":
    connect()
    print(duckdb.__version__)
else:
    source, file = sys.argv[1:]
    connect().execute(f"copy (select * from postgres_scan('{source}', 'public', 'orders')) to '{file}' "
                      "(format parquet, compression zstd)")
