"""Columns and tables of all libraries."""

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa


def object_array(values):
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def odd_index(values):
    return pd.Series(values, index=[7 * i % 5 - 3 for i in range(len(values))])


def column(values):
    return datasets.Dataset.from_dict({"values": values})["values"]


CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "object": object_array,
    "pandas": odd_index,
    "polars": pl.Series,
    "pyarrow": pa.array,
    "datasets": column,
}


def columns_of(rows):
    names = ["query", "document", "negative", "negative_2"][: len(rows[0])]
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


TABLES = {
    "list": list,
    "object": lambda rows: np.array(rows, dtype=object),
    "pandas": lambda rows: pd.DataFrame(columns_of(rows)),
    "polars": lambda rows: pl.DataFrame(columns_of(rows)),
    "pyarrow": lambda rows: pa.table(columns_of(rows)),
    "datasets": lambda rows: datasets.Dataset.from_dict(columns_of(rows)),
}
