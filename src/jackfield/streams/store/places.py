"""Places: from a path or URL to the files there."""

from pathlib import Path

from jackfield.streams.store.files import Files, LocalFiles


def files_at(place: str | Path | Files) -> Files:
    """The files of a folder, or of a URL such as s3://bucket/acts.

    Raises:
        MissingExtraError: a URL, and fsspec is not installed.
    """
    if isinstance(place, Files):
        return place
    if isinstance(place, str) and "://" in place:
        from jackfield.streams.store.remote import RemoteFiles

        return RemoteFiles(place)
    return LocalFiles(Path(place))
