"""Command lines for messages."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

# The options that every kind of publication has.
_SHARED = ("private", "create_pr", "revision", "tag", "collection", "dry_run")


def publish_command(kind: str, *words: object, options: Mapping[str, Any], **own: object) -> str:
    """Return the command line that repeats a publication.

    Parameters
    ----------
    kind : {"adapter", "demo", "metric", "metrics"}
    *words : object
        The words after the kind.
    options : mapping
        Of the publication. Those that every kind has are included, except for a token.
    **own : object
        Options of this kind only. Those that are None or False are left out.
    """
    line = ["hf-calib", "publish", kind, *map(str, words)]
    for name, value in {**own, **{name: options.get(name) for name in _SHARED}}.items():
        if value is None or value is False:
            continue
        flag = "--" + name.replace("_", "-")
        line += [flag] if value is True else [flag, str(value)]
    return shlex.join(line)


def place_option(command: str, namespace: str = "NAMESPACE", name: str = "NAME") -> str:
    """Return the option with which a command publishes to another repository.

    Parameters
    ----------
    command : str
        A command line of `publish_command`, or a call of Python's.
    namespace, name : str
        The other repository, "namespace/name".
    """
    words = command.split()
    if "--namespace" in words:
        return f"--namespace {namespace}"
    return f"--repo {namespace}/{name}" if "--repo" in words else f"hub_model_id={f'{namespace}/{name}'!r}"
