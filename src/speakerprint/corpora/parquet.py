"""What a damaged parquet file ends in: a message."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from speakerprint.errors import InputError


@contextmanager
def refuse_damaged(path: str | Path, remedy: str) -> Iterator[None]:
    """Inside the block the parquet file ``path`` is read. Raises InputError, with the remedy, if it is absent or damaged."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {remedy}") from None
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not a parquet file of the kind that is needed, or is damaged ({reason}); {remedy}") from None
