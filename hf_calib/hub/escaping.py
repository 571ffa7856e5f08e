"""Escaping of user-chosen names for a card, and checks for private text."""

import html
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import get_token, validate_repo_id

from .errors import PrivateInformationError

# CommonMark never reads an entity as structure, so entities work where backslashes do not: HTML, bare addresses (which
# GitHub links) and formulas (which the Hub renders between dollar signs or after backslashes).
_SPECIAL = re.compile(
    r"[&<>\\`*\[\]|~$@]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # an underscore inside a word is plain
    r"|:(?=//)|(?<=www)\."
    r"|^[#+\-=]|^\d{1,9}[.)](?=\s|\Z)",
    re.IGNORECASE,
)
_BIDIRECTIONAL_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_TOKEN = re.compile(r"\bhf_(?:oauth_)?[A-Za-z0-9]{16,}\b")
_ABSOLUTE_PATH = re.compile(r"^(?:[/\\]|~|[A-Za-z]:[/\\]|file:)")


class Markdown(str):
    """Text that is Markdown already and is put into a card unchanged."""

    __slots__ = ()


def single_line(value: object) -> str:
    """Return `value` as one line of visible text; line breaks and control characters become single spaces."""
    shown = {"Cc": " ", "Zl": " ", "Zp": " ", "Cs": "\N{REPLACEMENT CHARACTER}"}
    characters = (
        shown.get(unicodedata.category(character), character)
        for character in str(value)
        if ord(character) not in _BIDIRECTIONAL_CONTROLS
    )
    return " ".join("".join(characters).split())


def escape_markdown(value: object) -> Markdown:
    """Escape a value so that Markdown, HTML and tables show it as plain text.

    Parameters
    ----------
    value : object
        Anything with a string form; `Markdown` is returned unchanged.

    Returns
    -------
    Markdown
        One line that renders as `single_line(value)`, without emphasis, links, tags, table cells or formulas.
    """
    if isinstance(value, Markdown):
        return value
    return Markdown(_SPECIAL.sub(lambda match: f"{match[0][:-1]}&#{ord(match[0][-1])};", single_line(value)))


def is_hub_id(name: str) -> bool:
    """Return whether `name` is a valid repository id on the Hub and not a local path."""
    if _ABSOLUTE_PATH.match(name) or name.startswith((".", "-")) or os.path.exists(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def public_name(name: str) -> str:
    """Remove the folders of a local path; other names are returned unchanged.

    `cais/mmlu` is unchanged; `/home/ann/data/q.jsonl` and `./data/q.jsonl` become `q.jsonl`.
    """
    is_path = _ABSOLUTE_PATH.match(name) or name.startswith(("./", "../", ".\\", "..\\")) or os.path.exists(name)
    if not is_path or "\n" in name:
        return name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or "local folder"


_HOME_FOLDER = re.compile(r"(?<![\w./-])(?:/home/|/Users/|[A-Za-z]:[/\\]Users[/\\])[^\s/\\]+")


def _private_strings() -> Iterable[tuple[str, str]]:
    token = get_token()
    if token:
        yield token, "the access token"
    for folder, what in ((Path.home(), "the home folder's path"), (Path.cwd(), "the working folder's path")):
        if len(folder.parts) > 1:
            yield str(folder), what


def check_nothing_private(text: str, where: str) -> None:
    """Reject text that contains a token or a local path.

    Parameters
    ----------
    text : str
        The text to publish.
    where : str
        Name of the text for the message.

    Raises
    ------
    PrivateInformationError
        Names what was found and in which line, but never the token itself.
    """
    for number, written in enumerate(text.splitlines(), start=1):
        line = html.unescape(written)
        if _TOKEN.search(line):
            raise PrivateInformationError(
                f"Line {number} of {where} holds what looks like a Hub access token.",
                "Take it out, and revoke it in your account's settings if it was ever stored elsewhere.",
            )
        if _HOME_FOLDER.search(line):
            raise PrivateInformationError(
                f"Line {number} of {where} holds a home folder's path.", "Remove the folder from the path."
            )
        for private, what in _private_strings():
            if re.search(rf"(?<![\w./-]){re.escape(private)}(?![\w-])", line):
                raise PrivateInformationError(
                    f"Line {number} of {where} holds {what}.", "Remove it, or remove the folder from the path."
                )
