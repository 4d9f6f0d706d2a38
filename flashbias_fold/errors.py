"""What can go wrong, as users see it: one line that says what and where.

Every error that a user can cause or meet is one of these; the command line prints ``str(error)`` and
chooses the exit status by the class. Anything else is a bug and says so.
"""

from __future__ import annotations

from pathlib import Path


class FlashbiasError(Exception):
    """An error whose text is meant for the user."""

    kind = "error"

    def __init__(self, message: str) -> None:
        # One line, always: a library's multi-line text must not break the promise of the command line, and
        # what a file's name or content holds must not steer the terminal.
        line = " ".join(message.split())
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in line))


class InputError(FlashbiasError):
    """The input is wrong. Names the file, the job and the field, and what was expected there."""

    kind = "input"

    def __init__(
        self,
        message: str,
        *,
        file: Path | str | None = None,
        job: str | None = None,
        field: str | None = None,
    ) -> None:
        self.file = str(file) if file is not None else None
        self.job = job
        self.field = field
        self.message = message
        where = [self.file, f"job '{job}'" if job is not None else None, field]
        super().__init__(": ".join([part for part in where if part] + [message]))


class UsageError(FlashbiasError):
    """An option or argument of the command line is wrong."""

    kind = "usage"


class SetupError(FlashbiasError):
    """Something that the run needs is not on this machine: weights, a component file, a device."""

    kind = "setup"


class JobError(FlashbiasError):
    """One job could not be done; the others go on."""

    kind = "job"


class DeviceMemoryError(JobError):
    """A job did not fit the memory of the device, after smaller chunks were tried."""

    kind = "memory"
