"""Calibrators as files: JSON, and safetensors for large arrays; every value is checked when it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALIBRATOR_FILE = "calibrator.json"
FORMAT_VERSION = 1
MAX_FILE_BYTES = 2**20
MAX_TENSOR_BYTES = 2**28
# If all arrays together have more numbers than this, they go into a separate file.
MAX_INLINE_NUMBERS = 4096
_TENSOR = "tensor"


def write(
    path: str | os.PathLike[str], method: str, parameters: dict[str, Any], fitted_on: dict[str, Any] | None = None
) -> Path:
    """Write a calibrator's parameters: JSON values, arrays of float64 and dictionaries of these; and its `fitted_on`.

    Returns
    -------
    Path
        Of the JSON file. Large arrays are next to it, in a file with the suffix `.safetensors`.

    Raises
    ------
    ValueError
        If the arrays are larger than `read` accepts.
    """
    path = Path(path)
    arrays: dict[str, NDArray[np.float64]] = {}
    tree = _take_arrays(parameters, "", arrays)
    size = sum(array.nbytes for array in arrays.values())
    if size > MAX_TENSOR_BYTES - MAX_FILE_BYTES:
        raise ValueError(
            f"the calibrator {method!r} has {size:,} bytes of numbers, and a file may have {MAX_TENSOR_BYTES:,}; fit "
            "it on fewer questions or features"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".safetensors")
    if sum(array.size for array in arrays.values()) > MAX_INLINE_NUMBERS:
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, beside)
    else:
        beside.unlink(missing_ok=True)
        tree = _put_arrays(tree, {name: array.tolist() for name, array in arrays.items()})
    content = {"format_version": FORMAT_VERSION, "method": method, "parameters": tree}
    if fitted_on is not None:
        content["fitted_on"] = fitted_on
    path.write_text(json.dumps(content, indent=2, allow_nan=False, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any], Any]:
    """Read a file of `write`: the method's name, its parameters and, if known, what it was fitted on.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file was not written by `write`.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CALIBRATOR_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no calibrator at {str(path)!r}; give the folder that `hf-calib calibrate --out` wrote"
        )
    _check_size(path, MAX_FILE_BYTES)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not readable JSON: {error}") from None
    if not isinstance(content, dict) or set(content) - {"fitted_on"} != {"format_version", "method", "parameters"}:
        raise ValueError(f"{path.name} must hold format_version, method and parameters, and may hold fitted_on")
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path.name} has format version {content['format_version']!r}; this version of hf_calib reads "
            f"{FORMAT_VERSION}"
        )
    if not isinstance(content["method"], str) or not isinstance(content["parameters"], dict):
        raise ValueError(f"{path.name}: method must be a name and parameters an object")
    try:
        if not _mentions_tensor(content["parameters"]):
            return content["method"], content["parameters"], content.get("fitted_on")
        arrays = _read_arrays(path.with_suffix(".safetensors"))
        return content["method"], _put_arrays(content["parameters"], arrays), content.get("fitted_on")
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None


def described(parameters: Any, most: int = 256) -> Any:
    """Return parameters as JSON values for a report; arrays with more than `most` numbers become their shapes."""
    if isinstance(parameters, np.ndarray):
        return parameters.tolist() if parameters.size <= most else {"shape": list(parameters.shape)}
    if isinstance(parameters, dict):
        return {key: described(value, most) for key, value in parameters.items()}
    if isinstance(parameters, list):
        return [described(value, most) for value in parameters]
    return parameters


class ParameterReader:
    """Reads the values of a calibrator's parameters from a dictionary, checking each.

    Parameters
    ----------
    parameters : dict
        As read from a file, which may come from an untrusted source.
    method : str
        The calibrator's name, for messages.
    """

    def __init__(self, parameters: dict[str, Any], method: str) -> None:
        if not isinstance(parameters, dict):
            raise ValueError(f"the parameters of {method!r} must be an object, got {parameters!r:.100}")
        self._parameters = dict(parameters)
        self._method = method

    def _take(self, name: str) -> Any:
        if name not in self._parameters:
            raise ValueError(f"the parameter {name!r} of the calibrator {self._method!r} is missing")
        return self._parameters.pop(name)

    def _fail(self, name: str, what: str, value: Any) -> ValueError:
        return ValueError(f"{name!r} of the calibrator {self._method!r} {what}, got {value!r:.100}")

    def number(self, name: str, low: float = -1e308, high: float = 1e308) -> float:
        """Read a number in [low, high]."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, float | int):
            raise self._fail(name, "must be a number", value)
        if not low <= value <= high:
            raise self._fail(name, f"must be in [{low:g}, {high:g}]", value)
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int:
        """Read an integer in [low, high]."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._fail(name, f"must be an integer in [{low}, {high}]", value)
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Read one of several words."""
        value = self._take(name)
        if not isinstance(value, str) or value not in choices:
            raise self._fail(name, f"must be one of {', '.join(choices)}", value)
        return value

    def array(
        self, name: str, shape: tuple[int | None, ...], low: float = -1e308, high: float = 1e308
    ) -> NDArray[np.float64]:
        """Read an array of finite numbers in [low, high]; None in the shape stands for any nonzero length."""
        value = self._take(name)
        try:
            array = np.asarray(value)
        except ValueError:
            raise self._fail(name, "must be an array", value) from None
        if array.dtype.kind not in "fiu" or array.ndim != len(shape):
            raise self._fail(name, f"must be an array of numbers with {len(shape)} dimension(s)", value)
        if any(
            size == 0 if wanted is None else size != wanted for size, wanted in zip(array.shape, shape, strict=True)
        ):
            raise self._fail(name, f"must have the shape {shape}, has {array.shape}", value)
        array = array.astype(np.float64)
        if not ((array >= low) & (array <= high)).all():
            raise self._fail(name, f"must hold numbers in [{low:g}, {high:g}]", value)
        return array

    def increasing(
        self, name: str, low: float = -1e308, high: float = 1e308, *, may_be_empty: bool = False
    ) -> NDArray[np.float64]:
        """Read a strictly increasing vector of numbers in [low, high]."""
        empty = may_be_empty and self._parameters.get(name) is not None and np.size(self._parameters[name]) == 0
        array = self.array(name, (0 if empty else None,), low, high)
        if not (np.diff(array) > 0).all():
            raise self._fail(name, "must increase", array)
        return array

    def mapping(self, name: str) -> dict[str, Any]:
        """Read a dictionary, unchecked."""
        value = self._take(name)
        if not isinstance(value, dict):
            raise self._fail(name, "must be an object", value)
        return value

    def mappings(self, name: str, most: int = 100) -> list[dict[str, Any]]:
        """Read a list of dictionaries, unchecked."""
        value = self._take(name)
        if not isinstance(value, list) or not 1 <= len(value) <= most or not all(isinstance(v, dict) for v in value):
            raise self._fail(name, f"must be a list of 1 to {most} objects", value)
        return value

    def done(self) -> None:
        """Raise if there are values that were not read."""
        if self._parameters:
            names = ", ".join(map(repr, sorted(map(str, self._parameters))))
            raise ValueError(f"the calibrator {self._method!r} has no parameter {names:.200}")


def _take_arrays(value: Any, name: str, arrays: dict[str, NDArray[np.float64]]) -> Any:
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {key: _take_arrays(child, f"{name}.{key}".lstrip("."), arrays) for key, child in value.items()}
    if isinstance(value, list):
        return [_take_arrays(child, f"{name}.{index}", arrays) for index, child in enumerate(value)]
    return value


def _put_arrays(value: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if _is_tensor(value):
            name = value[_TENSOR]
            if name not in arrays:
                raise ValueError(f"there is no tensor {name!r:.100} next to the calibrator's file")
            return arrays[name]
        return {key: _put_arrays(child, arrays) for key, child in value.items()}
    if isinstance(value, list):
        return [_put_arrays(child, arrays) for child in value]
    return value


def _is_tensor(value: dict[str, Any]) -> bool:
    """Return whether a dictionary refers to an array; one of numbers may have the same key."""
    return set(value) == {_TENSOR} and isinstance(value[_TENSOR], str)


def _mentions_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return _is_tensor(value) or any(_mentions_tensor(child) for child in value.values())
    return isinstance(value, list) and any(map(_mentions_tensor, value))


def _read_arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise FileNotFoundError(f"the calibrator's large arrays are missing: there is no {path.name} next to its file")
    _check_size(path, MAX_TENSOR_BYTES)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file: {error}") from None


def _check_size(path: Path, most: int) -> None:
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path.name} has {size:,} bytes, more than any calibrator needs")
