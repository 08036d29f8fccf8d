"""Files made to do harm are refused, with words that say why and what to do instead."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qlab
from qlab.errors import ArgumentError, FormatError, QlabError, UnsupportedError
from qlab.io.uploads import Limits, load_model
from qlab.io.uploads.arrays import read_arrays
from qlab.io.uploads.models import unpack
from qlab.io.uploads.operators import ALLOWED
from tests.upload_files import (
    Small,
    members_of,
    nested_archive,
    npy,
    pack,
    small_archive,
    weights,
    with_json,
)

PROGRAM = "models/archive.json"
WEIGHTS = "data/weights/archive_weights_config.json"
CONSTANTS = "data/constants/archive_constants_config.json"
LIMITS = Limits()


@pytest.fixture(scope="module")
def names() -> tuple[str, str]:
    """Members of the small archive: its program, and the list of its weights."""
    members = members_of(small_archive())
    program = next(n for n in members if n.startswith("models/"))
    config = next(n for n in members if n.endswith("_weights_config.json"))
    return program, config


def refused(content: bytes, message: str, kind: type[QlabError] = FormatError) -> None:
    with pytest.raises(kind, match=message):
        unpack(content, LIMITS)


def program_with(change: Callable[[Any], Any], archive: bytes | None = None) -> bytes:
    content = archive or small_archive()
    member = next(n for n in members_of(content) if n.startswith("models/"))
    return with_json(content, member, change)


def weights_with(change: Callable[[Any], Any]) -> bytes:
    content = small_archive()
    member = next(n for n in members_of(content) if n.endswith("_weights_config.json"))
    return with_json(content, member, lambda data: change(data["config"]))


def graph_of(data: Any) -> Any:
    return data["graph_module"]["graph"]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


# Pickles


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "model.ckpt"])
def test_pickles_are_refused_by_name_and_by_content(name: str, tmp_path: Path) -> None:
    path, fired = tmp_path / name, tmp_path / "fired"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(UnsupportedError, match=r"is a pickle, and reading a pickle runs code.*saf"):
        load_model(path)
    with pytest.raises(UnsupportedError, match="is a pickle"):
        load_model(pickle.dumps(Bomb(fired)))
    refused(path.read_bytes(), "is a pickle", UnsupportedError)
    assert not fired.exists()


def test_pickled_sample_inputs_are_never_opened(tmp_path: Path) -> None:
    members, fired = members_of(small_archive()), tmp_path / "fired"
    inputs = next(n for n in members if n.startswith("data/sample_inputs/"))
    members[inputs] = pickle.dumps(Bomb(fired))
    unpack(pack(members), LIMITS)
    assert not fired.exists()


def test_a_pickled_weight_is_refused() -> None:
    def change(config: Any) -> None:
        config["fc.weight"]["use_pickle"] = True

    refused(weights_with(change), "weight_.*is a pickle", UnsupportedError)


def test_an_opaque_constant_is_refused() -> None:
    def change(config: Any) -> None:
        config["fc.weight"]["path_name"] = "opaque_obj_0"

    refused(weights_with(change), "is an object of Python, not a plain tensor", UnsupportedError)
    members = members_of(small_archive()) | {"data/constants/custom_obj_0": b"x"}
    refused(pack(members), "holds an object of Python, which only running", UnsupportedError)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    content = npy(np.array([Bomb(fired)], dtype=object), pickled=True)
    with pytest.raises(UnsupportedError, match="is a pickle"):
        read_arrays(content, "x.npy", LIMITS)
    with pytest.raises(UnsupportedError, match="is a pickle"):
        read_arrays(pack({"x.npy": content}, ""), "x.npz", LIMITS)
    assert not fired.exists()


# Programs


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "torch.ops.higher_order.cond",
        "torch.ops.aten.conv2d.default.__class__",
        "torch.ops.quantized.add.default",
        "torch.ops.aten.__init__.default",
        "_operator.call",
        "builtins.eval",
    ],
)
def test_targets_outside_aten_are_refused(target: str) -> None:
    def change(data: Any) -> None:
        graph_of(data)["nodes"][0]["target"] = target

    message = r"operators of torch\.ops\.aten only|not among those"
    refused(program_with(change), message, UnsupportedError)


@pytest.mark.parametrize("name", ["from_file", "set_", "as_strided", "empty", "resize_"])
def test_other_operators_are_named_with_the_list_of_what_is_admitted(name: str) -> None:
    def change(data: Any) -> None:
        graph_of(data)["nodes"][0]["target"] = f"torch.ops.aten.{name}.default"

    refused(program_with(change), rf"aten\.{name} is not among.*conv2d, .*linear", UnsupportedError)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_what_is_admitted_exists(name: str) -> None:
    assert getattr(torch.ops.aten, name).overloads()


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "Symbol('s0').__class__",
        "Lambda(Symbol('x'), Symbol('x'))",
        "Function('f')(Integer(1))",
        "Integer(Integer(1))",
        "Add(" * 40 + "1" + ")" * 40,
        "Symbol('s0', positive=1)",
        "Add(1, 2",
        "",
        "1 + 1",
        "lambda: 0",
    ],
)
def test_expressions_outside_the_grammar_are_refused(expression: str) -> None:
    def change(data: Any) -> None:
        sizes = graph_of(data)["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = expression

    refused(program_with(change), "an expression that qlab does not read")


def test_guards_are_never_evaluated(tmp_path: Path) -> None:
    fired = tmp_path / "fired"

    def change(data: Any) -> None:
        data["guards_code"] = [f"__import__('pathlib').Path({str(fired)!r}).touch()"]

    unpack(program_with(change), LIMITS)
    assert not fired.exists()


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        *steps, last = [int(p) if p.isdigit() else p for p in path.split("/")]
        for step in steps:
            data = data[step]
        data[last] = value

    return change


GRAPH = "graph_module/graph"
PROGRAMS = {
    "schema": ("schema_version/major", 9, "another generation of torch.export"),
    "argument": (f"{GRAPH}/nodes/0/inputs/0/name", "no", "takes no such argument"),
    "value": (
        f"{GRAPH}/nodes/0/inputs/0/arg",
        {"as_tensor": {"name": "nowhere"}},
        "a value that does not exist yet",
    ),
    "graph": (f"{GRAPH}/nodes/0/inputs/0/arg", {"as_graph": {}}, "may not hold"),
    "object": (f"{GRAPH}/nodes/0/inputs/0/arg", {"as_custom_obj": {}}, "may not hold"),
    "twice": (f"{GRAPH}/nodes/1/outputs/0", {"as_tensor": {"name": "x"}}, "have one name"),
    "arguments": (f"{GRAPH}/nodes/0/inputs/1/arg", {"as_bool": True}, "does not run"),
    "padding": (f"{GRAPH}/nodes/0/inputs/2/arg", {"as_int": 2**70}, "does not fit in 64 bits"),
    "layout": (f"{GRAPH}/tensor_values/x/layout", 2, "is not a dense tensor"),
    "dtype": (f"{GRAPH}/tensor_values/x/dtype", 11, "dtype of .* is not read"),
    "negative": (f"{GRAPH}/tensor_values/x/sizes/1", {"as_int": -1}, "out of range"),
    "huge": (f"{GRAPH}/tensor_values/x/sizes/1", {"as_int": 2**47}, "An input is too large"),
    "shape": (f"{GRAPH}/tensor_values/conv2d/sizes/1", {"as_int": 3}, "another shape or dtype"),
    "rank": (f"{GRAPH}/tensor_values/x/sizes", [], "do not go together"),
    "outputs": ("graph_module/signature/output_specs", [], "another number of values"),
    "output": (
        "graph_module/signature/output_specs/0",
        {"buffer_mutation": {}},
        "does more than return values",
    ),
    "input": (
        "graph_module/signature/input_specs/0",
        {"custom_obj": {}},
        "an input that is no plain tensor",
    ),
    "user input": (
        "graph_module/signature/input_specs/0",
        {"user_input": 3},
        "Expected a JSON dict",
    ),
    "parameter": (
        "graph_module/signature/input_specs/0/parameter/parameter_name",
        "a b",
        "no name that PyTorch allows",
    ),
    "class": (
        "graph_module/signature/input_specs/0/parameter/parameter_name",
        "__class__",
        "lacks a tensor|does not describe",
    ),
    "tree": (
        "graph_module/module_call_graph/0/signature/out_spec",
        '[1, {"type": "os.system", "context": null, "children_spec": []}]',
        "a class of Python",
    ),
    "deep tree": (
        "graph_module/module_call_graph/0/signature/in_spec",
        "[" * 500 + "]" * 500,
        "nested too deeply",
    ),
    "call": ("graph_module/module_call_graph", [], "does not say how it is called"),
    "nodes": (f"{GRAPH}/nodes", {}, "Expected a JSON list"),
    "argument names": (
        "graph_module/module_call_graph/0/signature/forward_arg_names",
        7,
        "Expected a JSON list",
    ),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_programs_that_do_not_hold_together_are_refused(case: str) -> None:
    path, value, message = PROGRAMS[case]
    with pytest.raises((FormatError, UnsupportedError), match=message):
        unpack(program_with(_set(path, value)), LIMITS)


def test_a_program_that_writes_to_a_parameter_is_refused() -> None:
    def change(data: Any) -> None:
        node = graph_of(data)["nodes"][0]
        node["target"] = "torch.ops.aten.relu_.default"
        weight = {"as_tensor": {"name": "p_conv_weight"}}
        node["inputs"] = [{"name": "self", "arg": weight, "kind": 1}]

    refused(program_with(change), "writes to its own parameters or buffers|another shape")


def test_random_names_of_arguments_never_become_code() -> None:
    def change(data: Any) -> None:
        signature = data["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = ["x): import os; (y"]

    from qlab.io.uploads.models import assemble

    graph = assemble(*unpack(program_with(change), LIMITS), LIMITS).model
    assert "import os" not in graph.code and "input_0" in graph.code


# JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b'{"a": 1, "a": 2}', "one name twice"),
        (b'{"a": NaN}', "not finite"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "not readable as JSON"),
        (b"[]", "Expected a JSON dict"),
        (b"null", "Expected a JSON dict"),
    ],
)
def test_json_that_is_none_or_strange_is_refused(text: bytes, message: str, names: Any) -> None:
    refused(pack(members_of(small_archive()) | {names[0]: text}), message)


def test_a_float_that_overflows_is_refused(names: Any) -> None:
    members = members_of(small_archive())
    assert b"1e-05" in members[names[0]]
    members[names[0]] = members[names[0]].replace(b"1e-05", b"1e999")
    refused(pack(members), "is not finite")


# Payloads


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sizes", [{"as_int": 300}, {"as_int": 200}], "do not fit its bytes"),
        ("sizes", [{"as_int": 2**40}, {"as_int": 2**40}], "do not fit its bytes"),
        ("strides", [{"as_int": 2**40}, {"as_int": 1}], "do not fit its bytes"),
        ("strides", [{"as_int": -1}, {"as_int": 1}], "out of range"),
        ("strides", [{"as_int": 1}], "do not go together"),
        ("storage_offset", {"as_int": 2**40}, "do not fit its bytes"),
        ("storage_offset", {"as_expr": {"expr_str": "Symbol('s')"}}, "is not a number"),
        ("dtype", 99, "dtype of"),
        ("layout", 1, "not a dense tensor"),
        ("sizes", [{"as_int": 2}, {"as_int": 3}], "another shape or dtype than the program"),
        ("sizes", [{"as_float": 0.5}] * 2, "neither a number nor"),
        ("sizes", [{"as_int": 1}] * 40, "too many axes"),
    ],
)
def test_weights_whose_sizes_do_not_fit_are_refused(field: str, value: Any, message: str) -> None:
    def change(config: Any) -> None:
        config["fc.weight"]["tensor_meta"][field] = value

    with pytest.raises((FormatError, UnsupportedError), match=message):
        unpack(weights_with(change), LIMITS)


def test_a_stride_of_zero_claims_no_memory_that_is_not_there() -> None:
    def change(config: Any) -> None:
        meta = config["fc.weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 2**40}], [{"as_int": 0}]

    refused(weights_with(change), "do not fit its bytes")


# Archives


def test_members_outside_the_archive_are_refused() -> None:
    for name in ("../evil", "/etc/passwd", "a/../../evil", "./x", "a\\..\\b", "a//b", "\x01"):
        refused(pack({name: b""}, ""), "no plain path inside the archive")


def test_two_members_of_one_name_are_refused() -> None:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as file:
        warnings.simplefilter("ignore")
        file.writestr("m/byteorder", b"little")
        file.writestr("m/byteorder", b"little")
    refused(out.getvalue(), "two members of one name")


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = pack({"x.npy": bytes(50_000_000)}, "", zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    with pytest.raises(FormatError, match=r"unpacks to too many bytes.*Limits\(unpacked_bytes"):
        read_arrays(bomb, "x.npz", Limits(unpacked_bytes=10_000_000))


def test_a_member_that_lies_about_its_size_is_refused() -> None:
    content = bytearray(pack({"x.npy": bytes(100_000)}, "", zipfile.ZIP_DEFLATED))
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 10)
    with pytest.raises(FormatError, match=r"is damaged|another size than it claims"):
        read_arrays(bytes(content), "x.npz", LIMITS)


def test_truncated_archives_are_refused() -> None:
    content = small_archive()
    for length in (4, 100, len(content) // 2, len(content) - 1):
        refused(content[:length], "truncated or damaged")


def test_a_damaged_member_is_refused() -> None:
    members = members_of(small_archive())
    content = bytearray(pack(members))
    content[content.index(b"pt2")] ^= 1
    refused(bytes(content), "is damaged")


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/m.so", "data/aotinductor/m/w.cpp", "extra.so", "m.pte"]
)
def test_compiled_members_are_refused(name: str) -> None:
    content = pack(members_of(small_archive()) | {name: b"\x7fELF"})
    refused(content, "holds compiled code", UnsupportedError)


def test_other_archives_are_refused() -> None:
    refused(pack({"a.txt": b""}), "a member that torch.export.save does not write")
    refused(pack({"byteorder": b"little"}), "no single model")
    refused(pack({"a": b""}, "x/y"), "does not write")
    refused(pack(members_of(small_archive()) | {"byteorder": b"big"}), "byteorder is not read")
    refused(pack({"serialized_state_dict.pt": b""}), "layout of torch 2.7", UnsupportedError)


def test_too_many_members_or_operators_are_refused() -> None:
    with pytest.raises(FormatError, match=r"too many members.*at most 3.*Limits\(members"):
        unpack(small_archive(), Limits(members=3))
    with pytest.raises(FormatError, match="too many operators"):
        unpack(small_archive(), Limits(nodes=2))
    with pytest.raises(FormatError, match="too many tensors"):
        unpack(nested_archive(), Limits(tensors=2))


# Weights


def _safetensors(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((10 * 2**30).to_bytes(8, "little") + b"{}" + bytes(100), "claims more than there is"),
        (_safetensors(b'{"w": 1}'), "Expected a JSON dict"),
        (_safetensors(b"{" + b'"a":{' * 5000), "nested too deeply"),
        (_safetensors(_entry(shape=[10 * 2**30])), "does not fit the file"),
        (_safetensors(_entry(shape=[-2]), bytes(8)), "does not fit the file"),
        (_safetensors(_entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0])), "the weights"),
        (_safetensors(_entry(data_offsets=[0, 9]), bytes(8)), "does not fit the file"),
        (_safetensors(_entry(data_offsets=[8, 0]), bytes(8)), "does not fit the file"),
        (_safetensors(_entry(dtype="PICKLE"), bytes(8)), "dtype of .* is not read"),
        (_safetensors(_entry(shape=[1.5]), bytes(8)), "Expected a JSON int"),
        (_safetensors(b'{"w": {}, "w": {}}'), "one name twice"),
        (weights(Small())[:-3], "does not fit the file|damaged"),
    ],
)
def test_weights_that_are_no_safetensors_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(QlabError, match=f"(?i){message}|damaged"):
        load_model(content, Small)


def test_files_of_other_kinds_and_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"of no kind that qlab reads.*\.pt2, \.safetensors"):
        load_model(b"GIF89a")
    with pytest.raises(FormatError, match=r"The file is too large.*Limits\(file_bytes"):
        load_model(small_archive(), limits=Limits(file_bytes=1000))
    with pytest.raises(ArgumentError, match="The file cannot be read"):
        load_model(tmp_path / "none.pt2")
    with pytest.raises(qlab.errors.DTypeError, match="a path, or the file's bytes"):
        load_model(3)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="no model with its architecture"):
        qlab.io.uploads.read(npy(np.zeros(3)), "x.npy")
