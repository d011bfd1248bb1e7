"""A Common Voice release of the Mozilla Data Collective, through its own client; the archive is then read like any other.

The archive is kept where the client keeps it (``MDC_DOWNLOAD_PATH``, else ~/.mozdata/datasets): outside the project, so that DVC
copies no tens of gigabytes into its cache, and once for all corpora. The key is the client's ``MDC_API_KEY``, and no setting.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from filelock import FileLock
from tqdm import tqdm

from speakerprint.corpora.sharing import file_state
from speakerprint.corpora.sources.common_voice import SharedLists, read_common_voice
from speakerprint.errors import InputError
from speakerprint.files import write_text
from speakerprint.params.sources import CommonVoiceSource, DataCollectiveSource

TRIES = 5  # in a row that bring nothing
WAIT_S = 5.0  # between one try and the next


def read_data_collective(source: DataCollectiveSource, shared: SharedLists | None = None) -> Iterator[pd.DataFrame]:
    """The recordings of the dataset's archive, as read_common_voice yields them; it is fetched if it is not there yet.

    A download goes on where an earlier one broke off. Raises InputError if the key is missing or wrong, the dataset's terms are
    not accepted, there is no such dataset, the service does not answer, the disk is too full or the archive's checksum differs,
    and as read_common_voice does.
    """
    archive = obtain_archive(source.dataset)
    return read_common_voice(
        CommonVoiceSource(kind="common_voice", root=str(archive), locales=source.locales, splits=source.splits), shared
    )


def obtain_archive(dataset: str) -> Path:
    """The dataset's archive on this disk, complete and of the checksum that the service gives. Raises InputError."""
    import datacollective  # half a second to import; it also reads .env

    if not os.environ.get("MDC_API_KEY"):
        raise InputError(
            "the Mozilla Data Collective wants a key: make one in your account there and put it into the variable MDC_API_KEY"
        )
    page = f"the page of {dataset!r}"
    try:
        details = datacollective.get_dataset_details(dataset)
        page = details.datasetUrl or page
        name = Path(details.filename or "").name
        if not name or name != details.filename:  # it becomes a path
            raise RuntimeError
        archive = Path(os.environ.get("MDC_DOWNLOAD_PATH") or "~/.mozdata/datasets").expanduser() / name
        archive.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(archive.with_name(f".{name}.lock")):  # another experiment may want the same archive now
            if not archive.exists():
                _refuse_full_disk(archive, int(details.sizeBytes or 0))
                _download(dataset, archive)
    except InputError:
        raise
    except datacollective.AuthenticationError:
        raise InputError(
            "the Mozilla Data Collective does not take the key in MDC_API_KEY: it is mistyped, expired or revoked; make a new one"
        ) from None
    except (RuntimeError, ValueError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # of this machine, not of the service
            raise
        if isinstance(error, PermissionError):
            fault = f"refuses dataset {dataset!r} ({error}); sign in there and accept its terms on {page}"
        elif isinstance(error, FileNotFoundError):
            fault = f"has no dataset {dataset!r}; set source.dataset to the id or short name that the dataset's page shows"
        else:
            fault = f"does not answer as it should ({_reason(error)}); check the connection and run `dvc repro` again later"
        raise InputError(f"the Mozilla Data Collective {fault}") from None
    _verify(archive, details.checksum)
    return archive


def _came(archive: Path) -> int:
    """Bytes of the archive that broken-off downloads have brought."""
    part = archive.with_name(f"{archive.name}.part")
    return part.stat().st_size if part.exists() else 0


def _refuse_full_disk(archive: Path, size: int) -> None:
    needed, free = size - _came(archive), shutil.disk_usage(archive.parent).free
    if needed > free:
        raise InputError(
            f"{archive.parent} has room for {free / 2**30:.1f} GiB, but {archive.name} needs {needed / 2**30:.1f} GiB more; "
            "free some, or set MDC_DOWNLOAD_PATH to a folder on another disk"
        )


def _download(dataset: str, archive: Path) -> None:
    """Try as long as tries bring something: the client goes on where the last one broke off."""
    import datacollective
    from datacollective.errors import DownloadError

    tries = TRIES
    while True:
        before = _came(archive)
        try:
            datacollective.download_dataset(dataset, str(archive.parent), show_progress=sys.stderr.isatty())
            return
        except DownloadError as error:
            cause = error.__cause__
            if isinstance(cause, KeyboardInterrupt) or (isinstance(cause, OSError) and cause.errno == errno.ENOSPC):
                raise cause from None
            tries = TRIES if _came(archive) > before else tries - 1
            if not tries:
                raise InputError(
                    f"the download of {archive} broke off ({_reason(cause)}) after {error.total_downloaded_bytes} of "
                    f"{error.total_archive_bytes}; check the connection, and `dvc repro` goes on from there"
                ) from None
            time.sleep(WAIT_S)


def _reason(error: BaseException | None) -> str:
    """What went wrong, without the address, which may be signed."""
    response = getattr(error, "response", None)
    return f"HTTP status {response.status_code}" if response is not None else type(error).__name__


def _verify(archive: Path, checksum: str | None) -> None:
    """Raise InputError if the archive has another checksum; the client itself compares none.

    One that was compared, and has not changed since, is not read again.
    """
    expected = (checksum or "").lower().removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{64}", expected):
        print(f"{archive}: the service gives no SHA-256 to compare it with", file=sys.stderr)
        return
    note = archive.with_name(f".{archive.name}.verified")
    verified = f"{expected} {file_state(archive)}"
    if note.exists() and note.read_text(encoding="utf-8") == verified:
        return
    digest = hashlib.sha256()
    with (
        archive.open("rb") as file,
        tqdm(total=archive.stat().st_size, unit="B", unit_scale=True, desc=f"verify {archive.name}", disable=None) as bar,
    ):
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != expected:
        raise InputError(
            f"{archive} has the SHA-256 {digest.hexdigest()}, expected {expected}: it came damaged, or "
            "the dataset has changed since; delete it and run `dvc repro` to fetch it again, or read it as kind: common_voice"
        )
    write_text(verified, note)
