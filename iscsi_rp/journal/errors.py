"""What can go wrong in a journal.

Each error says which images are still to be had, where that is the question.
"""

from iscsi_rp.errors import ConflictError, Error, NotFoundError


class JournalError(Error):
    """The journal could not do what was asked."""


class JournalFullError(JournalError):
    """The journal's file system has no space left."""

    hint = "Free space there: the oldest images go first, but never the newest one."


class JournalIoError(JournalError):
    """The journal's medium could not be read or written."""


class JournalUnusableError(JournalError):
    """The log could neither be written nor cut back and takes no more records until it is opened again."""


class JournalFormatError(JournalError):
    """This is not a journal of this group in a format that this version reads."""


class MissingSegmentError(JournalError):
    """A segment of the log is missing."""


class DamagedStateError(JournalError):
    """The durable state of the copy cannot be read."""


class DamagedRecordError(JournalError):
    """A record of the log is damaged."""

    def __init__(self, position: int, where: str) -> None:
        """`position` is the record's; `where` names the file."""
        self.position = position
        super().__init__(
            f"record {position} in {where} is damaged: images before it can be read, "
            "later ones wherever they do not need it"
        )


class ImageGoneError(NotFoundError):
    """This image lies outside the window that the journal keeps."""


class ReplicaBusyError(ConflictError):
    """Another long operation on this copy is under way."""
