"""Namespaces: which the Hub allows, and which a token may write to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .commands import place_option
from .errors import InvalidNamespaceError, MissingTokenError, NotYourRepositoryError
from .translation import TRANSPORT_ERROR, token_hint

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# The namespace in this package's files, replaced by the one that they are published to.
OWN_NAMESPACE = "hf_calib"
PUBLIC_HUB = "https://huggingface.co"
_ALLOWED = re.compile(r"(?!\d+\Z)[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")


def suggest_namespace(namespace: str) -> str:
    """Return the closest name that the Hub allows: `hf_calib` becomes `hf-calib`."""
    suggestion = re.sub(r"[^A-Za-z0-9]+", "-", namespace).strip("-")
    return f"{suggestion}-org" if suggestion.isdigit() or not suggestion else suggestion


def check_namespace(repo_id: str, endpoint: str, again: str) -> None:
    """Reject a namespace that the public Hub does not allow.

    Parameters
    ----------
    repo_id : str
        "namespace/name".
    endpoint : str
        The Hub's address; other Hubs may have other rules and check names themselves.
    again : str
        The command that publishes.

    Raises
    ------
    InvalidNamespaceError
        Suggests the closest allowed name.
    """
    namespace, _, name = repo_id.partition("/")
    if endpoint.rstrip("/") == PUBLIC_HUB and not _ALLOWED.fullmatch(namespace):
        raise InvalidNamespaceError(
            f"{namespace!r} cannot be a user or an organization on the Hub: names take letters, digits and single "
            "dashes between them.",
            f"Use {suggest_namespace(namespace)!r} instead: {place_option(again, suggest_namespace(namespace), name)}",
        )


def namespace_of(namespace: str | None, api: HfApi, token: str | None) -> str:
    """Return a namespace, the logged-in user's if none is given.

    Raises
    ------
    MissingTokenError
        If none is given and nobody is logged in, or the Hub cannot be reached.
    """
    if namespace is not None:
        return namespace
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        return api.whoami(token=token)["name"]
    except (LocalTokenNotFoundError, OfflineModeIsEnabled, TRANSPORT_ERROR, OSError) as error:
        anonymous = isinstance(error, LocalTokenNotFoundError)
        reason = "nobody is logged in" if anonymous else f"the Hub did not return it ({error})"
        raise MissingTokenError(
            f"--namespace: defaults to the name of the logged-in user, but {reason}.",
            "Give it, for example --namespace ann, or log in with `hf auth login`.",
        ) from error


def check_write_access(api: HfApi, repo_id: str, token: str | None, create_pr: bool, again: str) -> None:
    """Check before any upload whether the token may write to a repository's namespace.

    Parameters
    ----------
    api : HfApi
    repo_id : str
        "namespace/name".
    token : str or None
    create_pr : bool
        Whether to open a pull request, which anyone may do.
    again : str
        The command that publishes.

    Raises
    ------
    MissingTokenError
        If there is no token, or it is read-only.
    NotYourRepositoryError
        If the namespace is neither the user's nor one of their organizations', and `create_pr` is false.
    """
    identity = api.whoami(token=token)
    role = identity.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise MissingTokenError("The token in use is read-only.", token_hint(again))
    namespace, _, name = repo_id.partition("/")
    own = [identity["name"], *(organization["name"] for organization in identity.get("orgs", ()))]
    if not create_pr and namespace not in own:
        raise NotYourRepositoryError(
            f"{repo_id} is not yours: you are logged in as {identity['name']}"
            + (f", a member of {', '.join(own[1:])}" if own[1:] else "")
            + ".",
            f"Publish to {place_option(again, identity['name'], name)}, join {namespace}, or propose the change with "
            "--create-pr.",
        )
