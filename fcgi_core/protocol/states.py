"""The life of a request as data: which record may follow which.

A request has two independent directions. Toward the application (the *input*) it is PARAMS, then STDIN, then, for a
filter only, DATA, each closed by an empty record (FastCGI section 3.3, stream records). Toward the web server (the
*output*) it is STDOUT, closed by an empty record (section 6.2; php-fpm does so) or only by END_REQUEST, as others do.
STDERR is not in the tables: it has another stream and may arrive before, between and after.

Both sides use both tables: the receiver to check a record, the sender to move along the same arrows. A record that a
table does not have is the peer's mistake and ends that request alone. States are text because they are keys of
dictionaries that every record looks up, and text hashes fast.
"""

from __future__ import annotations

from enum import StrEnum

from .records import RecordType, Role

__all__ = ["AFTER_PARAMS", "INPUT", "OUTPUT", "Input", "Output"]


class Input(StrEnum):
    """The part of a request that the application receives next."""

    PARAMS = "PARAMS"
    STDIN = "STDIN"
    STDIN_THEN_DATA = "STDIN, then DATA"
    DATA = "DATA"
    COMPLETE = "complete"


class Output(StrEnum):
    """What the web side has received of a response."""

    OPEN = "open"
    STDOUT_CLOSED = "STDOUT closed"
    ENDED = "ended"


# (state, record type, whether its content is empty) -> next state. Where the end of PARAMS leads depends on the role.
INPUT: dict[tuple[Input, int, bool], Input] = {
    (Input.PARAMS, RecordType.PARAMS, False): Input.PARAMS,
    (Input.STDIN, RecordType.STDIN, False): Input.STDIN,
    (Input.STDIN, RecordType.STDIN, True): Input.COMPLETE,
    (Input.STDIN_THEN_DATA, RecordType.STDIN, False): Input.STDIN_THEN_DATA,
    (Input.STDIN_THEN_DATA, RecordType.STDIN, True): Input.DATA,
    (Input.DATA, RecordType.DATA, False): Input.DATA,
    (Input.DATA, RecordType.DATA, True): Input.COMPLETE,
    # an authorizer has no STDIN (section 6.3), yet clients close it
    (Input.COMPLETE, RecordType.STDIN, True): Input.COMPLETE,
}

AFTER_PARAMS = {
    Role.RESPONDER: Input.STDIN,
    Role.AUTHORIZER: Input.COMPLETE,
    Role.FILTER: Input.STDIN_THEN_DATA,
}

OUTPUT: dict[tuple[Output, int, bool], Output] = {
    (Output.OPEN, RecordType.STDOUT, False): Output.OPEN,
    (Output.OPEN, RecordType.STDOUT, True): Output.STDOUT_CLOSED,
    (Output.OPEN, RecordType.END_REQUEST, False): Output.ENDED,
    (Output.STDOUT_CLOSED, RecordType.END_REQUEST, False): Output.ENDED,
}
