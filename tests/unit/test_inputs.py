"""What may be asked for a task's folder: paths, forms, URLs, parameters, folders; and what is refused, by field."""

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.inputs import (
    FILES_MAX,
    BadSpec,
    File,
    Input,
    check_inputs,
    check_params,
    check_result,
    files_of,
    is_list,
    list_bytes,
    param_text,
)
from events.spec import JobSpec, TaskText, text_of
from services.cli.options import parse_fetch, parse_param

D = "0" * 64


def refused(*inputs: Input) -> tuple[str, str]:
    with pytest.raises(BadSpec) as caught:
        check_inputs("inputs", [*inputs], 100)
    return caught.value.field, caught.value.detail


@pytest.mark.parametrize(
    ("file", "field"),
    [
        (Input("a"), "inputs[0]"),
        (Input("a", D, job="j"), "inputs[0]"),
        (Input("a", D, data=b"x"), "inputs[0]"),
        (Input("a", "0"), "inputs[0].digest"),
        (Input("../a", D), "inputs[0].path"),
        (Input(".hive-emit", D), "inputs[0].path"),
        (Input(".", D), "inputs[0].path"),
        (Input("a", job="j", form="folder"), "inputs[0].form"),
        (Input("a", D, form="folder", url="https://h/x"), "inputs[0].url"),
        (Input("a", url="https://h/x", data=b"x"), "inputs[0].url"),
        (Input("a", D, url="file:///etc/passwd"), "inputs[0].url"),
        (Input("a", D, url="https://me:secret@h/x"), "inputs[0].url"),
        (Input("a", D, url="https://h/a b"), "inputs[0].url"),
        (Input("a", D, url="http://h:99999/"), "inputs[0].url"),
        (Input("a", data=b"x" * (1024 * 1024 + 1)), "inputs[0].data"),
    ],
)
def test_what_cannot_be_an_input_is_named(file: Input, field: str) -> None:
    assert refused(file)[0] == field


def test_what_can() -> None:
    check_inputs(
        "inputs",
        [
            Input(".", D, form="folder"), Input("b", D, form="archive", url="https://h/x.zip"), Input("c/d", data=b""),
            Input("e", job="j"), Input("f", D, url="http://h:8080/x?y=%20#z"),
        ],
        100,
    )  # fmt: skip


def test_data_in_a_request_is_base64() -> None:
    body = {"path": "a", "data": base64.b64encode(b"\0hello").decode()}
    assert msgspec.json.decode(msgspec.json.encode(body), type=Input).data == b"\0hello"
    with pytest.raises(msgspec.ValidationError, match="base64"):
        msgspec.json.decode(b'{"path":"a","data":"%%"}', type=Input)


@pytest.mark.parametrize("path", ["a", "out/", "./", "*.csv", "logs/**/*.txt", "a/[bc]/d?"])
def test_results_may_be_files_folders_and_patterns(path: str) -> None:
    check_result("results[0]", path)
    assert is_list(path) == (path != "a")


@pytest.mark.parametrize("path", ["", "/", "../x", "a/../b", "/etc/*", "*/", "a**/b", ".", "a//", "..", "../"])
def test_and_nothing_that_leads_out(path: str) -> None:
    with pytest.raises(BadSpec, match=r"results\[0\]"):
        check_result("results[0]", path)


def test_parameters_keep_their_types() -> None:
    params: dict[str, Any] = {"lr": 0.1, "n": 3, "on": True, "name": "a b"}
    check_params("params", params)
    text = text_of(JobSpec(["x"], params=params))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(text), type=TaskText).params == params
    assert [param_text(value) for value in params.values()] == ["0.1", "3", "true", "a b"]


@pytest.mark.parametrize("params", [{"1a": 1}, {"a-b": 1}, {"a": 2**63}, {"a": "x\0"}, {"a": "x" * 9000}])
def test_parameters_that_cannot_be(params: dict[str, Any]) -> None:
    with pytest.raises(BadSpec, match="params"):
        check_params("params", params)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("a=1", 1), ("a=-2.5e3", -2500.0), ("a=true", True), ("a=True", "True"), ("a=x=y", "x=y"), ("a=", ""),
        ("a:text=1", "1"), ("a:float=1", 1.0), ("a:int=7", 7), ("a=1e999", "1e999"), ("a=" + "9" * 30, 1e30),
    ],
)  # fmt: skip
def test_parameters_as_typed(said: str, value: Any) -> None:
    found = parse_param(said)
    assert found == ("a", value)
    assert type(found[1]) is type(value)


@pytest.mark.parametrize("said", ["a", "=1", "a:int=x", "a:int=1.5", "a:bool=1", "a:what=1", "a b=1"])
def test_parameters_that_are_none(said: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_param(said)


def test_what_workers_fetch_as_typed() -> None:
    assert parse_fetch(f"x=https://h/a=b#{D}") == Input("x", D, url="https://h/a=b")
    assert parse_fetch(f"x/=https://h/a.zip#sha256={D}") == Input("x", D, form="archive", url="https://h/a.zip")
    assert parse_fetch(f"./=https://h/a.zip#{D}").path == "."
    for bad in ("x", "x=https://h/a", f"=https://h/#{D}", f"x=ftp://h/a#{D}"):
        with pytest.raises(ValueError, match=r"is not NAME=URL|must begin"):
            parse_fetch(bad)


# Folders

NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(PATHS, st.integers(0, 9), max_size=20))
def test_a_folder_is_the_same_blob_in_whatever_order(sizes: dict[str, int]) -> None:
    files = [File(path, D, size) for path, size in sizes.items()]
    data = list_bytes(files)
    assert data == list_bytes(files[::-1])
    if not any(one.startswith(f"{other}/") for one in sizes for other in sizes):
        assert sorted(files_of(data), key=lambda file: file.path) == sorted(files, key=lambda file: file.path)


@pytest.mark.parametrize(
    "files",
    [
        [{"path": "../x", "digest": D}],
        [{"path": "/x", "digest": D}],
        [{"path": "x", "digest": "y"}],
        [{"path": "x", "digest": D}, {"path": "x", "digest": D}],
        [{"path": "x", "digest": D}, {"path": "x/y", "digest": D}],
        [{"path": ".hive-emit", "digest": D}],
        [{"path": "x", "digest": D, "mode": 1}],
        {},
        [{"path": "x"}] * (FILES_MAX + 1),
    ],
)
def test_a_list_that_cannot_be_a_folder_is_refused(files: Any) -> None:
    with pytest.raises(BadSpec):
        files_of(msgspec.json.encode(files))
