"""What every command line shares: the parser, argument types, and errors as one sentence with an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from nnunet_sbldm import __version__
from nnunet_sbldm.common.threads import wait_passively
from nnunet_sbldm.types import SBLDMWarning, UnfitGeneratorError, UserError

MAX_SEED = 2**63 - 1
USER_ERRNO = {
    errno.ENOSPC: "the disk is full",
    errno.EACCES: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EDQUOT: "the disk quota is used up",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "not a folder",
    errno.EEXIST: "a file of that name is in the way",
}


class Parser(argparse.ArgumentParser):
    """Bad options end with one sentence and exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description)
        self.add_argument("--version", action="version", version=f"nnunet-sbldm {__version__}")

    def error(self, message: str) -> NoReturn:
        """Print one sentence and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def run(main: Callable[[], None]) -> None:
    """Run a command and turn its errors into one sentence and an exit code."""
    wait_passively()
    try:
        with _printed_warnings():
            main()
    except UserError as e:
        _exit(str(e), 2)
    except UnfitGeneratorError as e:
        _exit(str(e), 3)
    except BrokenPipeError:  # whoever reads what we print, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        if e.errno not in USER_ERRNO:
            raise
        _exit(f"{e.filename or 'A file'} cannot be written: {USER_ERRNO[e.errno]}.", 2)
    except KeyboardInterrupt:
        _exit("interrupted; run the same command again to go on.", 130)


@contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print each of our warnings as one line; those of other packages are shown as Python shows them."""
    show = warnings.showwarning

    def show_ours(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
        if issubclass(category, SBLDMWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show(message, category, *where, **how)

    with warnings.catch_warnings():
        warnings.simplefilter("always", SBLDMWarning)
        warnings.showwarning = show_ours
        yield


def _exit(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if value != value or abs(value) == float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 that fits into 63 bits."""
    if not text.isdigit() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {MAX_SEED}, got {text!r}")
    return int(text)
