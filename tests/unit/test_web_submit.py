"""From a request's body to commands: refs, cycles, ids, digests, and the fields that problems name."""

import msgspec
import pytest

from events.spec import BadSpec, Input, JobSpec
from infra.sealing import Sealer
from tests.web_support import OneKey
from web.problems import Failed, failed_of
from web.refs import JOB_ID, resolve
from web.submit import build, new_ids, parse, place_alone, place_in_list

SEALER = Sealer(b"k" * 32)
KEYS = OneKey(SEALER)


def spec(**fields: object) -> JobSpec:
    return JobSpec(["true"], **fields)  # pyright: ignore[reportArgumentType]


def problem(body: bytes) -> tuple[int, str, str]:
    with pytest.raises((Failed, BadSpec)) as caught:
        specs, place = parse(body)
        build(specs, place, "u1", "", KEYS)
    found = failed_of(caught.value).problem
    return found.status, found.field, found.detail


def test_a_single_job_and_a_list_name_their_fields_differently() -> None:
    assert problem(b'{"command":["x"],"memory":-1}')[:2] == (422, "memory")
    assert problem(b'[{"command":["x"]},{"command":["x"],"memory":-1}]')[:2] == (422, "jobs[1].memory")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, ""),
        (b"{", 400, ""),
        (b"[]", 422, "jobs"),
        (b'[{"command":"x"}]', 400, "jobs[0].command"),
        (b'[{"command":["x"],"retries":{"exit":"a"}}]', 400, "jobs[0].retries.exit"),
        (b'{"command":["x"],"comand":1}', 400, "comand"),
        (b'[{"command":["x"],"inputs":[{"path":"a","dijest":""}]}]', 400, "jobs[0].inputs[0].dijest"),
        (b'{"command":["x"],"inputs":[{"digest":"a"}]}', 400, "inputs[0].path"),
        (b'{"command":["x"],"inputs":[{"path":"../a","digest":"%s"}]}' % (b"0" * 64), 422, "inputs[0].path"),
        (b'{"command":[]}', 422, "command"),
        (b'{"command":["x"],"count":0}', 422, "count"),
        (b'{"command":["x"],"env":{"A":"%s"}}' % (b"a" * 70_000), 413, "command"),
        (b'[{"command":["x"]},{"command":["%s"]}]' % (b"a" * 70_000), 413, "jobs[1]"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, status: int, field: str) -> None:
    assert problem(body)[:2] == (status, field)


@pytest.mark.parametrize(("body", "remedy"), [(b"", "send a job"), (b"[]", "put a job into the list")])
def test_no_job_at_all_is_refused_with_what_to_send(body: bytes, remedy: str) -> None:
    with pytest.raises(Failed) as caught:
        parse(body)
    assert caught.value.problem.remedy.startswith(remedy)


def test_more_than_a_thousand_jobs_are_refused() -> None:
    status, field, detail = problem(msgspec.json.encode([spec()] * 1001))
    assert (status, field) == (422, "jobs")
    assert "1000" in detail


def test_refs_become_ids_and_what_is_waited_for_comes_first() -> None:
    ids = new_ids(3, "u1", "key")
    specs = [spec(after=["b", ids[2]]), spec(ref="b", after=["c"]), spec(ref="c")]
    resolved, order = resolve(specs, ids, place_in_list)
    assert resolved[0].after == [ids[1], ids[2]]
    assert resolved[1].after == [ids[2]]
    assert [one.ref for one in resolved] == ["", "", ""]
    assert order == [2, 1, 0]


def test_a_job_waits_for_those_whose_results_it_takes() -> None:
    ids = new_ids(2, "u1", "key")
    specs = [spec(ref="make"), spec(inputs=[Input("in", job="make"), Input("more", job=ids[0])])]
    resolved, _ = resolve(specs, ids, place_in_list)
    assert resolved[1].after == [ids[0]]
    assert [file.job for file in resolved[1].inputs] == [ids[0], ids[0]]


@pytest.mark.parametrize(
    ("specs", "field", "says"),
    [
        ([spec(ref="a", after=["a"])], "jobs[0].after", "'a' waits for 'a'"),
        ([spec(ref="a", after=["b"]), spec(ref="b", after=["a"])], "jobs[0].after", "'a' waits for 'b' waits for 'a'"),
        (
            [spec(), spec(ref="x", after=["z"]), spec(ref="y", after=["x"]), spec(ref="z", after=["y"])],
            "jobs[1].after",
            "'x' waits for 'z' waits for 'y' waits for 'x'",
        ),
        ([spec(ref="a", inputs=[Input("in", job="a")])], "jobs[0].after", "'a' waits for 'a'"),
        ([spec(ref="a"), spec(ref="a")], "jobs[1].ref", "jobs[0]"),
        ([spec(ref="not a ref")], "jobs[0].ref", "1 to 64"),
        ([spec(ref="jaaaaaaaaaaaaaaaa")], "jobs[0].ref", "no job's id"),
        ([spec(after=["nothing"])], "jobs[0].after[0]", "neither"),
        ([spec(inputs=[Input("in", job="nothing")])], "jobs[0].inputs[0].job", "neither"),
    ],
)
def test_refs_that_cannot_be(specs: list[JobSpec], field: str, says: str) -> None:
    with pytest.raises(BadSpec) as caught:
        resolve(specs, new_ids(len(specs), "u1", "key"), place_in_list)
    assert caught.value.field == field
    assert says in caught.value.detail


def test_a_chain_as_long_as_a_request_may_be() -> None:
    specs = [spec(ref=f"r{n}", after=[f"r{n + 1}"] if n < 999 else []) for n in range(1000)]
    _, order = resolve(specs, new_ids(1000, "u1", "key"), place_in_list)
    assert order == list(reversed(range(1000)))


def test_ids_are_always_the_same_under_a_key_and_never_without() -> None:
    assert new_ids(3, "u1", "a") == new_ids(3, "u1", "a")
    assert new_ids(2, "u1", "a") == new_ids(3, "u1", "a")[:2]
    assert not set(new_ids(3, "u1", "a")) & set(new_ids(3, "u1", "b"))
    assert not set(new_ids(3, "u1", "a")) & set(new_ids(3, "u2", "a")), "a key is its owner's alone"
    assert len({*new_ids(100, "u1", ""), *new_ids(100, "u1", "")}) == 200
    assert all(JOB_ID.match(one) for one in (*new_ids(20, "u1", ""), *new_ids(20, "u1", "k")))


def test_under_a_key_a_body_is_known_by_the_whole_request() -> None:
    def digests(specs: list[JobSpec], key: str) -> list[str]:
        return [one.fact.digest for one in build(specs, place_in_list, "u1", key, KEYS).commands]

    first, second = spec(name="a"), spec(name="b")
    assert digests([first, second], "k") == digests([first, second], "k")
    assert digests([first, second], "k")[0] != digests([first, spec(name="c")], "k")[0]
    assert digests([first], "k") == digests([first], "")
    assert digests([spec(env={"a": "1", "b": "2"})], "k") == digests([spec(env={"b": "2", "a": "1"})], "k")


def test_the_text_is_sealed_and_the_rest_is_in_clear() -> None:
    asked = spec(name="secret", cpus=0.5, memory=7, time_limit=1.5, priority=9, count=3)
    fact = build([asked], place_alone, "u1", "", KEYS).commands[0].fact
    assert (fact.cpus_milli, fact.memory_bytes, fact.time_limit_ms, fact.priority, fact.count) == (500, 7, 1500, 9, 3)
    assert b"secret" not in fact.text.data
    assert b'"secret"' in SEALER.open(fact.text)
