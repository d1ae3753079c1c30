from __future__ import annotations

import pytest

from fcgi_core.protocol.records import RecordType, Role
from fcgi_core.protocol.states import AFTER_PARAMS, INPUT, OUTPUT, Input, Output

BODY = (RecordType.STDIN, RecordType.DATA)


@pytest.mark.parametrize("role", Role)
def test_every_role_has_a_way_from_params_to_its_end(role: Role) -> None:
    state = AFTER_PARAMS[role]
    ends = []
    while state is not Input.COMPLETE:
        kind = next(kind for kind in BODY if (state, kind, True) in INPUT)
        assert INPUT[state, kind, False] is state  # a body may have any number of records
        assert not any((state, other, empty) in INPUT for other in BODY if other != kind for empty in (True, False))
        state = INPUT[state, kind, True]
        ends.append(kind)
    assert ends == {Role.RESPONDER: [5], Role.AUTHORIZER: [], Role.FILTER: [5, 8]}[role]


def test_what_is_complete_stays_complete() -> None:
    assert {after for (state, _, _), after in INPUT.items() if state is Input.COMPLETE} == {Input.COMPLETE}
    assert not any(state is Output.ENDED for state, _, _ in OUTPUT)


@pytest.mark.parametrize("state", [Output.OPEN, Output.STDOUT_CLOSED])
def test_a_response_may_end_whether_stdout_was_closed_or_not(state: Output) -> None:
    assert OUTPUT[state, RecordType.END_REQUEST, False] is Output.ENDED


def test_no_output_after_its_end() -> None:
    assert (Output.STDOUT_CLOSED, RecordType.STDOUT, False) not in OUTPUT
    assert (Output.STDOUT_CLOSED, RecordType.STDOUT, True) not in OUTPUT


def test_every_state_can_be_reached() -> None:
    assert set(INPUT.values()) | set(AFTER_PARAMS.values()) == set(Input)
    assert set(OUTPUT.values()) == set(Output)
