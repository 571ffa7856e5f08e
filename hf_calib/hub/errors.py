"""Errors about folders and repositories on the Hub, each with a hint."""


class HubError(Exception):
    """Base of this package's errors about the Hub.

    Parameters
    ----------
    message : str
        What happened, and to which repository.
    hint : str, optional
        What to do, or the command to continue with; printed on its own line after the message.
    """

    def __init__(self, message: str, hint: str | None = None):
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\n{hint}" if hint else message)


class MissingTokenError(HubError):
    """Nobody is logged in, or the token is not valid."""


class NotYourRepositoryError(HubError, PermissionError):
    """The token may not write to the repository or its namespace."""


class InvalidNamespaceError(HubError, ValueError):
    """The Hub does not allow a user or organization of this name."""


class InvalidFolderError(HubError, ValueError):
    """A file that a publication needs is missing from the folder, or damaged."""


class MissingModelError(HubError, FileNotFoundError):
    """There is no folder or readable repository of that name."""


class CardConflictError(HubError, ValueError):
    """Two cards were edited by hand, or a card's markers are damaged."""


class PrivateInformationError(HubError, ValueError):
    """A token or a local path would be published."""


class RepositoryExistsError(HubError):
    """The repository, tag or branch exists already and differs from the request."""


class RepositoryChangedError(HubError):
    """Someone else committed in the meantime; nothing was written."""


class InterruptedPublicationError(HubError, ConnectionError):
    """The connection or the Hub failed during publication; the repository is unchanged."""


class UnreachableHubError(InterruptedPublicationError):
    """There is no connection to the Hub."""


class VerificationError(HubError):
    """After the publication, the Hub's content differs from the folder's."""


class UnsafeRepositoryError(HubError, ValueError):
    """The repository requires something that loading must not do: run code, unpickle, or leave its folder."""
