"""What is used of TRL outside its documented interface is in one file, and is there in the tested versions."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import transformers
import trl

import hf_calib
from hf_calib.trainers import trl_compatibility
from tests.examples.scripts import EXAMPLES

KNOWN = ("1.8.0", "1.12.0", "1.16.0")
TRAINERS = ("DPO", "SFT", "KTO", "RLOO", "GRPO", "Reward")
SOURCES = [*Path(hf_calib.__file__).parent.rglob("*.py"), *EXAMPLES.rglob("*.py")]


def test_the_versions_that_were_looked_at_are_named():
    for version in KNOWN:
        assert version in trl_compatibility.__doc__


def test_ppo_is_there_where_it_is_said_to_be():
    major, minor, *_ = (int(part) for part in trl.__version__.split("."))
    assert trl_compatibility.has_ppo() == ((major, minor) < (1, 13))


@pytest.mark.parametrize(
    ("module", "names"),
    [("trl.trainer.utils", ["use_adapter"]), ("trl.models.utils", ["prepare_deepspeed", "prepare_fsdp"])],
)
def test_the_undocumented_functions_are_there(module, names):
    found = importlib.import_module(module)
    assert all(callable(getattr(found, name)) for name in names)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_undocumented_attributes_of_trainers_are_there(name):
    trainer_class = getattr(trl, f"{name}Trainer")
    assert trl_compatibility.trainer_name(trainer_class) == name
    assert {"trl", "hf_calib"} <= set(trl_compatibility.tag_names(trainer_class))


def private_names(tree: ast.AST) -> set[str]:
    """The private attributes that are read, set, or declared in a class."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
                found |= {part.name} if isinstance(part, ast.FunctionDef) else set()
    return {name for name in found if re.match(r"_[a-z]", name)}


def trls_private_names() -> set[str]:
    """Those of TRL's trainers that are not transformers' too."""
    classes = {base for name in TRAINERS for base in getattr(trl, f"{name}Trainer").__mro__}
    of_trl = set().union(
        *(private_names(ast.parse(inspect.getsource(inspect.getmodule(base)))) for base in classes
          if base.__module__.startswith("trl."))
    )  # fmt: skip
    of_transformers = private_names(ast.parse(inspect.getsource(transformers.trainer)))
    return {name for name in of_trl - of_transformers if not hasattr(transformers.Trainer, name)}


def test_private_names_of_trl_are_in_one_file_only():
    private = trls_private_names()
    assert {"_tag_names", "_name", "_metrics", "_total_train_tokens"} <= private
    using = {}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if "hf_calib.trainers" not in text and "trl" not in text and path.parent.name != "trainers":
            continue
        if names := private_names(ast.parse(text)) & private:
            using[path.name] = names
    assert using.pop("trl_compatibility.py") == {"_tag_names", "_metrics", "_total_train_tokens"}
    assert using == {}


def test_undocumented_modules_are_imported_in_one_file_only():
    private = re.compile(r"^\s*(from|import) trl\.|import_module\(\"trl\.(?!rewards)", re.MULTILINE)
    using = {path.name for path in SOURCES if private.search(path.read_text(encoding="utf-8"))}
    assert using == {"trl_compatibility.py"}
