"""Makes the web side's outputs from the options."""

from __future__ import annotations

import logging

from fcgi_core.plugin import severity_number

from .file_sink import FileSink
from .formats import format_json
from .journal_sink import JournalSink
from .options import PORTS, Output, split_address
from .sinks import SURE_QUEUE_BYTES, Sink
from .socket_sink import SocketSink
from .stream_sink import StreamSink, tls_context
from .udp_sink import UdpSink

__all__ = ["make_sink"]


def make_sink(output: Output, log: logging.Logger, *, acknowledged: bool) -> Sink:
    """Return the sink of an output. OSError if a file for TLS cannot be used."""
    sink = _make(output, log)
    sink.threshold = severity_number(output.severity)
    sink.required = output.required
    if acknowledged and output.required:
        sink.bound = SURE_QUEUE_BYTES
    return sink


def _make(output: Output, log: logging.Logger) -> Sink:
    where = getattr(output, output.kind)
    match output.kind:
        case "file":
            return FileSink(where, log)
        case "json_file":
            return FileSink(where, log, to_text=format_json, to_texts=lambda lines: [format_json(one) for one in lines])
        case "socket":
            return SocketSink(where, log)
        case "journal":
            return JournalSink(where, log)
        case "udp":
            return UdpSink(*split_address(where, PORTS["udp"]), log)
        case kind:
            context = tls_context(output.ca, output.certificate, output.key) if kind == "tls" else None
            return StreamSink(
                *split_address(where, PORTS[kind]),
                log,
                longest_text=output.max_bytes,
                context=context,
                peer_name=output.peer_name,
            )
