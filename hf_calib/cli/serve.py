"""`hf-calib serve`."""

from __future__ import annotations

import argparse

from .options import add_command, add_json, add_length_options, add_trust


def add_serve_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "serve",
        help="answer typed decisions over HTTP with calibrated probabilities",
        description="Serve POST /v1/systemone: a state and typed questions in, a calibrated probability for every "
        'allowed answer out, one forward per request. Needs `pip install "hf-calib[serve]"`.',
        example="hf-calib serve --model your/model --adapter out",
    )
    parser.add_argument(
        "--model", required=True, help="a folder, a GGUF file, or the Hub id of a causal language model"
    )
    parser.add_argument("--adapter", metavar="A", help="a PEFT adapter, a folder or Hub id, to put on the model")
    parser.add_argument(
        "--temperatures",
        metavar="FILE",
        help="one temperature per question type (default: decision_temperatures.json in the adapter's or model's "
        "folder)",
    )
    parser.add_argument("--n-orders", type=int, metavar="N", help="average over N orders of the options (default: 1)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; others than this machine need one of its own "
        "addresses or 0.0.0.0, and nothing checks who asks (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: %(default)s)")
    parser.add_argument(
        "--max-body", type=int, default=2**20, metavar="BYTES", help="longest request (default: %(default)s)"
    )
    parser.add_argument(
        "--max-questions", type=int, default=64, metavar="N", help="questions in a request (default: %(default)s)"
    )
    parser.add_argument("--prompt", metavar="FORMAT", help="a YAML or JSON file with the parts of a PromptFormat")
    parser.add_argument("--chat-template", action="store_true", help="put the questions through the chat template")
    parser.add_argument("--dtype", default="auto", help="bf16, fp16 or fp32 (default: as the weights were saved)")
    parser.add_argument("--device", help="gpu, cuda, mps or cpu (default: a GPU if there is one)")
    add_length_options(parser)
    add_trust(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import json

    from ..evaluation.decisions import decision_backend
    from ..evaluation.serving import serve
    from .options import ask_options

    name, backend, run = decision_backend(options.model, temperatures=options.temperatures, **ask_options(options))
    settings = {"host": options.host, "port": options.port}
    limits = {"max_body": options.max_body, "max_questions": options.max_questions}

    def ready(url: str) -> None:
        if options.json:
            print(json.dumps({"url": url, "model": name, **run, **limits}), flush=True)
        else:
            print(f"{name} answers POST {url}/v1/systemone (Ctrl-C to stop)", flush=True)

    serve(backend, name, **settings, **limits, ready=ready)
