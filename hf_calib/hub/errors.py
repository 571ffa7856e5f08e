"""What can go wrong between a folder on this machine and a repository on the Hub, each with the way on."""


class HubError(Exception):
    """Base of this package's errors about the Hub.

    Parameters
    ----------
    message : str
        What happened, and to which repository.
    hint : str, optional
        What to do or which command goes on from here; printed on its own line after the message.
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
    """The Hub does not allow a user or an organisation of this name."""


class InvalidFolderError(HubError, ValueError):
    """The folder does not hold what a publication needs, or holds it broken."""


class MissingModelError(HubError, FileNotFoundError):
    """There is no folder and no repository of that name, or nobody here may read it."""


class CardConflictError(HubError, ValueError):
    """Two cards were both edited by hand, or a card's markers are damaged."""


class PrivateInformationError(HubError, ValueError):
    """A token or a path of this machine would be published."""


class RepositoryExistsError(HubError):
    """The repository, the tag or the branch is there already and is not what was asked for."""


class RepositoryChangedError(HubError):
    """Somebody else committed between looking and committing; nothing of ours was written."""


class InterruptedPublicationError(HubError, ConnectionError):
    """The connection or the Hub failed in the middle; the repository holds what it held before."""


class UnreachableHubError(InterruptedPublicationError):
    """There is no connection to the Hub."""


class VerificationError(HubError):
    """What the Hub holds after the publication is not what the folder holds."""


class UnsafeRepositoryError(HubError, ValueError):
    """The repository asks for something that loading must not do: run code, unpickle, leave its folder."""
