"""What system columns cost in Parquet. usage: fact_size.py SCRATCH FILE... prints JSON.

Each fact file is written once more with its user columns only, by pyarrow with its defaults and zstd: the same rows in the same
order. What the history's file is larger by is what bygone adds to a fact; where its encodings are better than pyarrow's defaults,
that can be less than nothing.
"""
import collections
import json
import pathlib
import sys

import pyarrow.parquet as parquet


def add_columns(sizes: collections.Counter, metadata):
    """Adds the compressed bytes of each column."""
    for group in range(metadata.num_row_groups):
        part = metadata.row_group(group)
        for at in range(part.num_columns):
            column = part.column(at)
            sizes[column.path_in_schema.split(".")[0]] += column.total_compressed_size


def main(scratch: pathlib.Path, files: list[str]):
    facts = history = rival = 0
    columns, rival_columns = collections.Counter(), collections.Counter()
    for name in files:
        file = parquet.ParquetFile(name)
        facts += file.metadata.num_rows
        history += pathlib.Path(name).stat().st_size
        add_columns(columns, file.metadata)
        table = file.read()
        table = table.select([name for name in table.column_names if not name.startswith("_")]).replace_schema_metadata(None)
        parquet.write_table(table, scratch, compression="zstd")
        rival += scratch.stat().st_size
        add_columns(rival_columns, parquet.read_metadata(scratch))
        scratch.unlink()
    print(json.dumps({"facts": facts, "history": history, "rival": rival, "columns": columns, "rival_columns": rival_columns}))


main(pathlib.Path(sys.argv[1]), sys.argv[2:])
