"""`samples.parquet`: the answered items of an arm, one row per `Sample`.

`target`, `metrics`, `cell` and `sizes` are JSON texts, `prompt` is the hash's bytes, and `logprobs` are whole numbers
of 1e-5 nats, to which they were rounded: a third less space than doubles take.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_eval.errors import DataError
from sage_eval.store.files import check_version, write_bytes
from sage_eval.store.samples import UNITS, Sample

FILE = "samples.parquet"
VERSION = 3
"""Versions 1 and 2 are those of `old.samples`."""
_JSON = ("target", "metrics", "cell", "sizes")


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Write `samples` in one step."""
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, list[Any]] = {name: [getattr(s, name) for s in samples] for name in Sample.model_fields}
    columns |= {name: [json.dumps(value, ensure_ascii=False) for value in columns[name]] for name in _JSON}
    columns["prompt"] = [bytes.fromhex(value) for value in columns["prompt"]]
    columns["logprobs"] = [[round(value * UNITS) for value in values] for values in columns["logprobs"]]
    schema = pa.schema(
        {
            "task": pa.string(), "doc_id": pa.int64(), "filter": pa.string(), "prompt": pa.binary(),
            "target": pa.string(), "metrics": pa.string(), "logprobs": pa.list_(pa.int64()),
            "greedy": pa.list_(pa.bool_()), "generated": pa.list_(pa.string()), "cell": pa.string(),
            "sizes": pa.string(),
        },
        metadata={"schema_version": str(VERSION)},
    )  # fmt: skip
    buffer = io.BytesIO()
    parquet.write_table(
        pa.table(columns, schema=schema), buffer, compression="zstd", write_page_checksum=True,
        use_dictionary=["task", "filter", "target", "metrics", "cell", "sizes"],
        column_encoding={"logprobs.list.element": "BYTE_STREAM_SPLIT"},
    )  # fmt: skip
    write_bytes(path, buffer.getvalue())


def check(path: Path) -> None:
    """`DataError` where a file of tables is cut or altered."""
    _table(path)


def _table(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_table(io.BytesIO(path.read_bytes()), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0]
    return DataError(f"{path} is cut short or damaged ({reason}): delete it and repeat the run")


def read(path: Path) -> list[Sample]:
    """What was written; `DataError` where the file is cut, altered or of another version."""
    import pyarrow as pa

    table = _table(path)
    try:
        version = int((table.schema.metadata or {}).get(b"schema_version", 0))
        check_version(path, {"schema_version": version}, VERSION)
        return [_sample(row) for row in table.to_pylist()]
    except DataError:
        raise
    except (pa.ArrowException, LookupError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _sample(row: dict[str, Any]) -> Sample:
    # Dividing by a power of ten gives the double nearest to the decimal number, which is what rounding to it gave.
    logprobs = [unit / UNITS for unit in row["logprobs"]]
    texts = {name: json.loads(row[name]) for name in _JSON if name in row}  # `sizes` is newer
    return Sample.model_validate({**row, **texts, "prompt": row["prompt"].hex(), "logprobs": logprobs})
