"""Refs within a request: every request is either put in an order in which nobody waits for a later one, or a cycle
is named that is one.
"""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from events.spec import BadSpec, JobSpec
from web.refs import resolve
from web.submit import new_ids, place_in_list

COUNT = 8
waits = st.lists(st.lists(st.integers(0, COUNT - 1), max_size=3), min_size=COUNT, max_size=COUNT)


@given(waits)
def test_an_order_or_a_cycle(wanted: list[list[int]]) -> None:
    ids = new_ids(COUNT, "u1", "key")
    specs = [JobSpec(["x"], ref=f"r{n}", after=[f"r{other}" for other in after]) for n, after in enumerate(wanted)]
    refused = None
    resolved, order = list[JobSpec](), list[int]()
    try:
        resolved, order = resolve(specs, ids, place_in_list)
    except BadSpec as error:
        refused = error
    if refused is not None:
        cycle = [int(n) for n in re.findall(r"'r(\d+)'", refused.detail)]
        assert cycle[0] == cycle[-1] and len(cycle) > 1
        assert refused.field == f"jobs[{cycle[0]}].after"
        assert all(later in wanted[one] for one, later in itertools.pairwise(cycle))
        return
    assert sorted(order) == list(range(COUNT))
    places = {number: at for at, number in enumerate(order)}
    for number, after in enumerate(wanted):
        assert resolved[number].after == list(dict.fromkeys(ids[other] for other in after))
        assert all(places[other] < places[number] for other in after)
