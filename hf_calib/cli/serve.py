"""`hf-calib serve`."""

from __future__ import annotations

import argparse

from .options import add_command, add_force, add_json, add_length_options, add_prompt_options, add_trust


def add_serve_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "serve",
        help="answer typed decisions over HTTP with calibrated probabilities",
        description="Serve POST /v1/systemone: take a state and typed questions, and return a calibrated probability "
        'for every allowed answer, with one forward pass per request. Needs `pip install "hf-calib[serve]"`.',
        example="hf-calib serve --model your/model --adapter out",
    )
    parser.add_argument(
        "--model", required=True, help="a folder, a GGUF file, or the Hub id of a causal language model"
    )
    parser.add_argument("--adapter", metavar="A", help="a PEFT adapter for the model: a folder or Hub id")
    parser.add_argument(
        "--calibrator",
        metavar="DIR",
        help="a calibrator to apply, such as one temperature per question type (default: the one that comes with the "
        "adapter or model)",
    )
    parser.add_argument("--n-orders", type=int, metavar="N", help="average over N orders of the options (default: 1)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; for access from other machines, an address of this machine or 0.0.0.0; requests "
        "are not authenticated (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 for any free port (default: %(default)s)"
    )
    parser.add_argument(
        "--max-body", type=int, default=2**20, metavar="BYTES", help="maximum size of a request (default: %(default)s)"
    )
    parser.add_argument(
        "--max-questions",
        type=int,
        default=64,
        metavar="N",
        help="maximum number of questions per request (default: %(default)s)",
    )
    parser.add_argument("--dtype", default="auto", help="bf16, fp16 or fp32 (default: as the weights were saved)")
    parser.add_argument("--device", help="gpu, cuda, mps or cpu (default: a GPU if there is one)")
    add_force(parser, "apply a calibrator that was fitted on another model or prompt")
    add_prompt_options(parser, examples=False)
    add_length_options(parser)
    add_trust(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import json

    from ..evaluation.decisions import decision_backend
    from ..evaluation.serving import serve
    from .options import ask_options

    how = {"calibrator": options.calibrator, "force": options.force}
    name, backend, run = decision_backend(options.model, **how, **ask_options(options))
    settings = {"host": options.host, "port": options.port}
    limits = {"max_body": options.max_body, "max_questions": options.max_questions}

    def ready(url: str) -> None:
        if options.json:
            # "model" is what a request may name; what was loaded goes by another key
            print(json.dumps({**run, **limits, "url": url, "model": name, "loaded": run["model"]}), flush=True)
        else:
            print(f"{name} answers POST {url}/v1/systemone (Ctrl-C to stop)", flush=True)

    serve(backend, name, **settings, **limits, ready=ready)
