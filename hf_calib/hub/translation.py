"""Translation of the client's and the connection's errors into this package's, with how to continue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from .commands import place_option
from .errors import (
    HubError,
    InterruptedPublicationError,
    MissingTokenError,
    NotYourRepositoryError,
    RepositoryChangedError,
    UnreachableHubError,
)

# The base of every error of the client's HTTP library, whichever library this version of the client is built on.
TRANSPORT_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]


def token_hint(again: str) -> str:
    """Return how to get a token with write permission, and the command to continue with."""
    return (
        "Log in with `hf auth login`, or set HF_TOKEN to a token with write permission from your account's settings. "
        f"Then continue with: {again}"
    )


@contextmanager
def hub_errors(repository: str, again: str) -> Iterator[None]:
    """Translate errors that the client raises in this context into this package's.

    Parameters
    ----------
    repository : str
        Name of the repository in the message.
    again : str
        The command to continue with.
    """
    try:
        yield
    except HubError:
        raise
    except (LocalTokenNotFoundError, OfflineModeIsEnabled, HFValidationError) as error:
        raise _known(error, repository, again) from error
    except Exception as error:
        translated = _translate(error, repository, again)
        if translated is None:
            raise
        raise translated from error


@contextmanager
def after_publishing(repositories: Sequence[str]) -> Iterator[None]:
    """Add to an error of one of several publications which ones succeeded before it."""
    try:
        yield
    except HubError as error:
        if not repositories:
            raise
        raise type(error)(f"{error.message}\nPublished already: {', '.join(repositories)}.", error.hint) from error


def _known(error: Exception, repository: str, again: str) -> HubError:
    if isinstance(error, LocalTokenNotFoundError):
        return MissingTokenError(
            f"Publishing to {repository} needs a token, and nobody is logged in.", token_hint(again)
        )
    if isinstance(error, OfflineModeIsEnabled):
        return UnreachableHubError(
            f"{repository} cannot be reached: HF_HUB_OFFLINE is set.", f"Unset it, and continue with: {again}"
        )
    return HubError(f"{repository} is not a valid repository name: {error}")


def _translate(error: BaseException, repository: str, again: str) -> HubError | None:
    """Find the most specific error along the chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError):
            return _from_status(cause, repository, again)
        if isinstance(cause, (TRANSPORT_ERROR, ConnectionError, TimeoutError)):
            if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
                return UnreachableHubError(
                    f"The Hub cannot be reached for {repository} ({type(cause).__name__}: {cause}).",
                    f"Nothing was sent. Continue with: {again}",
                )
            return InterruptedPublicationError(
                f"The connection to the Hub broke while publishing to {repository} ({type(cause).__name__}: {cause}).",
                f"Nothing is half published and your files are as they were. Continue with: {again}",
            )
        if isinstance(cause, json.JSONDecodeError):
            return InterruptedPublicationError(
                f"The Hub's answer about {repository} was cut off or is no JSON.", f"Try again with: {again}"
            )
        cause = cause.__cause__ or cause.__context__
    if type(error).__module__.split(".")[0] == "hf_xet" or _is_xet_failure(error):
        return InterruptedPublicationError(
            f"The upload to {repository} failed: {error}", f"Nothing is half published. Continue with: {again}"
        )
    return None


def _is_xet_failure(error: BaseException) -> bool:
    # hf_xet raises plain RuntimeErrors from native code.
    return isinstance(error, RuntimeError) and "xet" in str(error).lower()


def _from_status(error: HfHubHTTPError, repository: str, again: str) -> HubError:
    status = error.response.status_code
    said = f" The Hub says: {error.server_message}" if error.server_message else ""
    if status == 401 and not (isinstance(error, RepositoryNotFoundError) and _was_authenticated(error)):
        return MissingTokenError(f"The Hub did not accept the token for {repository}.{said}", token_hint(again))
    if status == 403:
        return NotYourRepositoryError(
            f"The token may not write to {repository}.{said}",
            f"Use a token with write permission for it, another namespace ({place_option(again)}), "
            f"or propose the change with --create-pr. Then continue with: {again}",
        )
    if status in (401, 404):
        return NotYourRepositoryError(
            f"{repository} does not exist or is not visible with this token.{said}",
            f"Check its name and that the token may write to its namespace. Then continue with: {again}",
        )
    if status in (409, 412):
        return RepositoryChangedError(
            f"{repository} changed while it was being published, so nothing was written.{said}",
            f"Look at what changed, then run again: {again}",
        )
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        when = f"after {wait} seconds" if wait else "later"
        return InterruptedPublicationError(
            f"The Hub limits the rate of requests (429) and did not finish publishing to {repository}.{said}",
            f"Nothing is half published. Run again {when}: {again}",
        )
    if status >= 500 or status == 408:
        return InterruptedPublicationError(
            f"The Hub failed ({status}) while publishing to {repository}.{said}",
            f"Nothing is half published and your files are as they were. Continue with: {again}",
        )
    return HubError(f"The Hub refused the publication to {repository} ({status}).{said or ' ' + str(error)}")


def _was_authenticated(error: HfHubHTTPError) -> bool:
    return "authorization" in {name.lower() for name in error.response.request.headers}
