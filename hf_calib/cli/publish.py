"""`hf-calib publish`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from .options import add_command, add_json

if TYPE_CHECKING:
    from ..hub import Publication


def add_publish_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser, with one of its own for each thing that can be published."""
    parser = commands.add_parser(
        "publish",
        help="publish an adapter with its card, or the metrics as Spaces, to the Hugging Face Hub",
        description="Publish to the Hugging Face Hub: one commit, verified afterwards. The token "
        "comes from `hf auth login` or HF_TOKEN, the Hub's address from HF_ENDPOINT.",
        epilog="example: hf-calib publish adapter demo/adapter --repo ann/demo-adapter --dry-run",
    )
    kinds = parser.add_subparsers(title="what to publish", dest="kind", required=True, metavar="KIND")

    adapter = add_command(
        kinds,
        "adapter",
        help="an adapter or a model from its folder",
        description="Publish an adapter (or a whole model) with its tokenizer, card, reliability diagram, reports and "
        "calibrator. Checkpoints, optimizer states and pickles in the folder are not published.",
        example="hf-calib publish adapter demo/adapter --repo ann/demo-adapter --dry-run",
    )
    adapter.add_argument("folder", metavar="DIR", help="written by `trainer.save_model()` or `hf-calib demo`")
    adapter.add_argument(
        "--repo", required=True, metavar="NAMESPACE/NAME", help="the repository, created if necessary"
    )
    adapter.add_argument("--base-model", metavar="NAMESPACE/NAME", help="the base model's id, if it was a local copy")
    adapter.add_argument("--base-revision", metavar="REVISION", help="the base model's commit")
    adapter.add_argument(
        "--card",
        choices=("merge", "local", "remote"),
        default="merge",
        help="whose handwritten text stays if the folder's and the repository's cards each have some of their own "
        "(default: %(default)s, an error in that case)",
    )
    _add_common(adapter)
    adapter.set_defaults(run=lambda options: _run(options, _publish_adapter))

    demo = add_command(
        kinds,
        "demo",
        help="what `hf-calib demo` made: its base model and the adapter",
        description="Publish the demo's base model and the adapter on it, each with its card.",
        example="hf-calib publish demo demo --namespace ann --dry-run",
    )
    demo.add_argument("folder", metavar="DIR", nargs="?", default="demo", help="the demo's output (default: demo)")
    demo.add_argument("--save-cards", metavar="FOLDER", type=Path, help="also save the published cards here")
    _add_namespace(demo)
    _add_common(demo)
    demo.set_defaults(run=lambda options: _run(options, _publish_demo))

    metric = add_command(
        kinds,
        "metric",
        help="a metric as a Space",
        description="Publish a metric as a Space, for evaluate.load('NAMESPACE/NAME').",
        example="hf-calib publish metric ece --namespace hf-calib --tag",
    )
    metric.add_argument("name", metavar="NAME", help="for example ece")
    _add_namespace(metric)
    _add_common(metric)
    metric.set_defaults(run=lambda options: _run(options, _publish_metric))

    metrics = add_command(
        kinds,
        "metrics",
        help="every metric as a Space",
        description="Publish every metric of this package as a Space.",
        example="hf-calib publish metrics --namespace hf-calib --dry-run",
    )
    _add_namespace(metrics)
    _add_common(metrics)
    metrics.set_defaults(run=lambda options: _run(options, _publish_metrics))


def _add_namespace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace",
        help="user or organization (default: the logged-in user)",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    version = f"v{__version__}"
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="commit to this branch, created if necessary")
    parser.add_argument("--create-pr", action="store_true", help="propose the change as a pull request")
    parser.add_argument("--tag", nargs="?", const=version, metavar="NAME", help=f"tag it (without a name: {version})")
    parser.add_argument("--collection", metavar="SLUG", help="add the repository to this collection")
    parser.add_argument("--dry-run", action="store_true", help="list every file and show the card, but send nothing")
    add_json(parser)


def _common(options: argparse.Namespace) -> dict[str, Any]:
    names = ("private", "revision", "create_pr", "tag", "collection", "dry_run")
    return {name: getattr(options, name) for name in names}


def _publish_adapter(options: argparse.Namespace) -> list[Publication]:
    from ..hub import publish_adapter

    publication = publish_adapter(
        options.folder,
        options.repo,
        base_model=options.base_model,
        base_revision=options.base_revision,
        card=options.card,
        **_common(options),
    )
    return [publication]


def _publish_demo(options: argparse.Namespace) -> list[Publication]:
    from ..hub import publish_demo, save_published_card
    from ..hub.commands import publish_command

    again = publish_command(
        "demo", options.folder, options=vars(options), namespace=options.namespace, save_cards=options.save_cards
    )
    publications = publish_demo(options.folder, namespace=options.namespace, again=again, **_common(options))
    if options.save_cards is not None:
        for publication in publications:
            save_published_card(publication, options.save_cards)
    return publications


def _publish_metric(options: argparse.Namespace) -> list[Publication]:
    from ..hub import publish_metric

    return [publish_metric(options.name, namespace=options.namespace, **_common(options))]


def _publish_metrics(options: argparse.Namespace) -> list[Publication]:
    from ..hub import publish_metrics

    return publish_metrics(namespace=options.namespace, **_common(options))


def _run(options: argparse.Namespace, publish: Callable[[argparse.Namespace], list[Publication]]) -> int:
    from ..hub import HubError

    try:
        publications = publish(options)
    except HubError as error:
        print(f"hf-calib publish: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([_plain(publication, options.dry_run) for publication in publications]))
        return 0
    for publication in publications:
        print(_described(publication, options.dry_run))
    return 0


def _plain(publication: Publication, dry_run: bool) -> dict[str, Any]:
    """Return what was published, or would be, as JSON values."""
    names = ("repo_id", "repo_type", "url", "commit", "changed", "tag", "deleted", "card")
    return {
        **{name: getattr(publication, name) for name in names},
        "files": [{"path": file.path, "size": file.size, "changed": file.changed} for file in publication.files],
        "dry_run": dry_run,
    }


def _described(publication: Publication, dry_run: bool) -> str:
    """Say in text what was published, or would be."""
    width = max(len(file.path) for file in publication.files)
    lines = [f"{'Would publish' if dry_run else 'Published'} to {publication.url}"]
    lines += [
        f"  {file.path:<{width}}  {file.size:>13,} bytes  {'new' if file.changed else 'unchanged'}"
        for file in publication.files
    ]
    lines += [f"  {path:<{width}}  {'deleted':>13}" for path in publication.deleted]
    if dry_run:
        lines += ["", "README.md:", "", publication.card.rstrip("\n")]
    elif publication.changed:
        lines.append(f"in commit {publication.commit}, and compared with what was sent.")
    else:
        lines.append(f"Nothing new: commit {publication.commit} already holds all of this.")
    if publication.tag and not dry_run:
        lines.append(f"Tagged {publication.tag}.")
    return "\n".join(lines)
