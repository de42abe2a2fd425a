"""Files of rows: .jsonl, .json, .csv, .parquet; a large one is never held whole."""

import csv
import json
import re
from functools import cache

from plumbing.console import say
from plumbing.files import POINTER, is_pointer
from plumbing.layouts import MATERIAL, QUESTIONS, asked_column, check_names, lowered, plain_name

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
# 2,5 and 1.000,50; but 1,000 is read as it is everywhere else
DECIMAL = re.compile(r"^-?(?![1-9]\d{0,2},\d{3}$)(?:\d+|\d{1,3}(?:\.\d{3})+),\d+$")


def read_rows(path, is_needed=None):
    """Yield (place, row) of a .jsonl, .json, .csv or .parquet file; place reads " line 17".

    is_needed  function of a column's `plain_name`: others may be left out; None for all
    Raises ValueError that names the file and the line.
    """
    readers = {".parquet": read_parquet, ".csv": read_csv, ".jsonl": read_jsonl, ".json": read_json}
    place = ""
    try:
        if is_pointer(path):
            raise ValueError(f"it {POINTER}")
        if path.suffix.lower() not in readers:
            raise ValueError(f"its name does not end in {', '.join(SUFFIXES)}")
        for place, row in readers[path.suffix.lower()](path, is_needed):
            if isinstance(row, bytes):
                row = json.loads(row.decode("utf-8-sig"), object_pairs_hook=object_of)
            if not isinstance(row, dict):
                shown = str(row) if len(str(row)) < 40 else f"{str(row)[:40]} ..."
                raise ValueError(f"{shown} is no object such as {{'problem': 'p'}}")
            yield place, row
            place = f" after{place}"
    except Exception as error:  # a stranger's file: pyarrow may raise anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot be read: {path}{place}: {reason}") from error


def columns_of(path):
    """The names of the columns of a file, by its first row."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet  # slow to import

        return pyarrow.parquet.read_schema(path).names
    return next((list(row) for _, row in read_rows(path)), [])


def object_of(pairs):
    """A JSON object; of two fields of one name, json would keep the last in silence."""
    row = dict(pairs)
    if len(row) < len(pairs):
        check_names(name for name, _ in pairs)
    return row


def shortest(value, narrow):
    """Numbers of the type `narrow` as they were written: 0.1, not 0.10000000149011612."""
    if isinstance(value, list):
        return [shortest(one, narrow) for one in value]
    if isinstance(value, dict):
        return {name: shortest(one, narrow) for name, one in value.items()}
    is_narrow = isinstance(value, float) and narrow(value) == value
    return float(str(narrow(value))) if is_narrow else value


def read_parquet(path, is_needed):
    import numpy  # these two are slow to import, and the other formats do without
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        check_names(names)
        narrow = {}  # column -> its type of floats, where that is not Python's own
        for field in file.schema_arrow:
            if found := re.search(r"\b(half)?float\b", str(field.type)):
                narrow[field.name] = numpy.float16 if found[1] else numpy.float32
        needed = [name for name in names if not is_needed or is_needed(plain_name(name))]
        batches = file.iter_batches(batch_size=1024, columns=needed or names)
        rows = (row for batch in batches for row in batch.to_pylist(maps_as_pydicts="strict"))
        for number, row in enumerate(rows, 1):
            short = {name: shortest(row[name], narrow[name]) for name in narrow.keys() & row}
            yield f" row {number}", row | short


def read_csv(path, is_needed):
    csv.field_size_limit(2**31 - 1)  # characters; a long solution passes the default
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            mark = next((mark for mark in ";\t" if mark in first and "," not in first), ",")
            file.seek(0)
            # Not strict, an open quote would take in the rest.
            reader = csv.DictReader(file, delimiter=mark, strict=True)
            check_names(filter(None, reader.fieldnames or ()))
            asked = {*QUESTIONS, *MATERIAL}
            if not asked & set(map(plain_name, reader.fieldnames or asked)):
                wanted = "its first line must name columns, such as problem and answer"
                raise ValueError(f"{wanted}, not {first.strip()[:60]}")
            for row in reader:
                if None in row:  # a separator that is not quoted moves all that follows it
                    raise ValueError(f"line {reader.line_num} has more cells than the first line")
                if mark == ";":  # where it separates cells, a comma is that of decimals
                    for name in [name for name in row if DECIMAL.match(row[name] or "")]:
                        row[name] = row[name].replace(".", "").replace(",", ".")
                        tell_decimals(path)
                yield f" line {reader.line_num}", row
    except UnicodeDecodeError as error:  # its own position is that in a block of the file
        with path.open("rb") as file:
            line = next(i for i, line in enumerate(file, 1)
                        if line.decode("utf-8", "ignore").encode() != line)  # fmt: skip
        raise ValueError(f"line {line} is not utf-8: save the file as utf-8") from error


@cache  # A file is read several times.
def tell_decimals(path):
    say(f"{path}: as ; separates its cells, a comma is that of decimals: 2,5 is 2.5")


def lines_of(path):
    with path.open("rb") as file:  # as text, a line separator of Unicode would end a line
        yield from ((f" line {i}", line) for i, line in enumerate(file, 1) if line.strip())


def read_jsonl(path, is_needed):
    """A row in each line; or really a .json, a list over several lines."""
    with path.open("rb") as file:
        first = file.readline(2**20).decode("utf-8-sig", "ignore").strip()
    yield from read_json(path, is_needed) if first[:1] == "[" else lines_of(path)


def read_json(path, is_needed):
    """A list of rows, or an object with one in it (BBH's "examples"); or really a .jsonl."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from lines_of(path)
        return
    if isinstance(rows, dict) and asked_column(lowered(rows)) is None:
        lists = {name: value for name, value in rows.items()
                 if isinstance(value, list) and value and isinstance(value[0], dict)}  # fmt: skip
        if len(lists) > 1:
            raise ValueError(f"it holds the lists {', '.join(lists)}: give a file of one")
        rows = next(iter(lists.values()), rows)
    elif isinstance(rows, dict):
        rows = table_of(rows) or rows
    rows = rows if isinstance(rows, list) else [rows]
    yield from ((f" row {number}", row) for number, row in enumerate(rows, 1))


def is_index(column):
    return bool(column) and all(key.isdecimal() for key in column)


def table_of(columns):
    """The rows of {name: column}, as pandas and datasets write a table; [] where it is one row."""
    lists = [list(column.values()) if isinstance(column, dict) and is_index(column) else column
             for column in columns.values()]  # fmt: skip
    low = lowered(columns)
    asked = low[asked_column(low)]
    is_row = isinstance(asked, list) and asked and isinstance(asked[0], dict)  # the turns of one
    if is_row or any(not isinstance(one, list) or not one for one in lists):
        return []
    if len(set(map(len, lists))) > 1:
        raise ValueError(f"its columns {', '.join(columns)} have {[*map(len, lists)]} rows")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
