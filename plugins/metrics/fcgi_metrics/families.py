"""The table of the plugin's metrics: names, types, help texts and labels.

Both sides count the same things: names begin with `fcgi_app_` for an application process and with `fcgi_web_` for the
web side. Names of metrics about the plugin itself begin with `fcgi_metrics_`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["APPLICATION", "BUILD", "CHANNEL", "FAMILIES", "PLUGIN", "RESERVED", "WEB", "Family", "Kind"]

Kind = Literal["counter", "gauge", "histogram"]

CHANNEL = "metrics"
"""The channel on which snapshots travel."""
RESERVED = "fcgi_"
"""A prefix that an application's own metrics must not have."""
APPLICATION, WEB, PLUGIN = "fcgi_app_", "fcgi_web_", "fcgi_metrics_"
BUILD = "fcgi_build_info"
"""Of the web side; an application's begins with `fcgi_app_`."""


class Family(NamedTuple):
    """A metric in Prometheus' data model."""

    name: str
    """With `_total` for a counter."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    """In addition to `address` and `worker`, which all metrics of an application have."""


_BUILD = Family("build_info", "gauge", "Always 1; the labels say what runs.", ("version", "python", "carrier"))
_OUTPUT = ("plugin", "output")
_ASSOCIATION = (
    # all associations with one peer together
    Family("association_requests", "gauge", "Requests under way on the association."),
    Family("association_streams", "gauge", "Outgoing streams of the association."),
    Family("association_streams_leased", "gauge", "Outgoing streams that requests hold."),
    Family(
        "association_stream_shortages_total",
        "counter",
        "How often there were too few streams, by what was done about it.",
        ("remedy",),
    ),
    Family("association_feedback_waiting_bytes", "gauge", "Feedback of plugins that waits to be sent."),
    Family("association_content_waiting_bytes", "gauge", "Content of requests that waits to be sent."),
    Family("association_queued_bytes", "gauge", "Bytes that SCTP holds until the peer acknowledges them."),
    Family("association_round_trip_seconds", "gauge", "Smoothed round-trip time of the primary path."),
    Family("association_congestion_window_bytes", "gauge", "Congestion window of the primary path."),
    Family("association_unacknowledged_chunks", "gauge", "Chunks sent and not acknowledged."),
    Family("association_retransmissions_total", "counter", "Chunks sent again."),
    Family("association_packets_sent_total", "counter", "SCTP packets sent."),
    Family("association_packets_received_total", "counter", "SCTP packets received."),
)
_BOTH = (
    # by virtual host
    Family("requests_total", "counter", "Requests that have ended, by class of the status.", ("server_name", "status")),
    Family("requests_aborted_total", "counter", "Requests whose client went away.", ("server_name",)),
    Family("requests_failed_total", "counter", "Requests that ended in an error.", ("server_name",)),
    Family("requests_in_flight", "gauge", "Requests under way.", ("server_name",)),
    Family("received_bytes_total", "counter", "Bytes of request bodies.", ("server_name",)),
    Family("sent_bytes_total", "counter", "Bytes of responses, heads included.", ("server_name",)),
    Family(
        "queue_seconds", "histogram", "Time from a request's first record until work on it began.", ("server_name",)
    ),
    Family("application_seconds", "histogram", "Time from when work on a request began to its end.", ("server_name",)),
    Family("first_byte_seconds", "histogram", "Time to the first byte of the response.", ("server_name",)),
    Family("request_seconds", "histogram", "Time from a request's first record to its end.", ("server_name",)),
    Family("requests_folded_total", "counter", "Requests counted as other because there were too many hosts."),
    # the process
    Family("process_cpu_seconds_total", "counter", "Processor time of the process, user and system."),
    Family("process_resident_memory_bytes", "gauge", "Resident memory of the process."),
    Family("process_open_fds", "gauge", "Open file descriptors of the process."),
    Family("process_max_fds", "gauge", "File descriptors that the process may have open."),
    Family("process_threads", "gauge", "Threads of the process."),
    Family("process_start_time_seconds", "gauge", "When the process began, seconds since the epoch."),
    # the transport
    Family("associations", "gauge", "Associations that are up."),
    Family(
        "plugin_disagreements",
        "gauge",
        "Associations whose two sides declare a plugin's channels in different ways, so that nothing is carried.",
        ("plugin",),
    ),
    Family("channel_sent_items_total", "counter", "Items of feedback sent.", ("channel",)),
    Family("channel_sent_bytes_total", "counter", "Bytes of feedback sent.", ("channel",)),
    Family("channel_received_items_total", "counter", "Items of feedback received.", ("channel",)),
    Family("channel_received_bytes_total", "counter", "Bytes of feedback received.", ("channel",)),
    Family(
        "channel_dropped_items_total",
        "counter",
        "Items of feedback dropped, for lack of room or of a receiver.",
        ("channel",),
    ),
    # what plugins write to
    Family("output_up", "gauge", "Whether the output works: 0 if it fails or stalls.", _OUTPUT),
    Family("output_errors_total", "counter", "Attempts to write to the output that failed.", _OUTPUT),
    Family("output_written_items_total", "counter", "Items that the output has written.", _OUTPUT),
    Family("output_waiting_items", "gauge", "Items that wait for the output.", _OUTPUT),
    Family("output_waiting_bytes", "gauge", "Memory of the items that wait for the output.", _OUTPUT),
    Family("output_lost_items_total", "counter", "Items that the output lost.", _OUTPUT),
    Family("output_lost_bytes_total", "counter", "Text of the items that the output lost.", _OUTPUT),
    Family("output_cut_items_total", "counter", "Items that were too long for the output and are cut.", _OUTPUT),
)
_ADDRESS = ("address",)
_WORKER = ("address", "worker")
_WEB = (
    # the applications of the configuration, whether up or away
    Family("application_up", "gauge", "Whether the application gets requests.", _ADDRESS),
    Family("application_processes", "gauge", "Processes of the application, by state.", ("address", "state")),
    Family("application_requests_total", "counter", "Requests that were sent to the application.", _ADDRESS),
    Family("application_requests_in_flight", "gauge", "Requests that the application handles.", _ADDRESS),
    Family("application_capacity", "gauge", "Requests that the application would accept now.", _ADDRESS),
    Family("application_avoided_total", "counter", "How often failures in a row had it avoided for a while.", _ADDRESS),
    Family("application_out_total", "counter", "How often its probes took it out of the balance.", _ADDRESS),
    Family("application_lost_total", "counter", "How often the last association with a process of it ended.", _ADDRESS),
    # the queue
    Family("requests_waiting", "gauge", "Requests that wait for an application."),
    Family("requests_waiting_bytes", "gauge", "Memory of what these requests have sent."),
    Family(
        "requests_unserved_total",
        "counter",
        "Requests that the web side answered itself, because of the queue or a time limit, by reason.",
        ("reason",),
    ),
    Family("ready", "gauge", "Whether it takes requests, as /ready says."),
)
_APPLICATION = (
    Family("requests_over_limit_total", "counter", "Requests that were ended because of app.request_limit."),
)
_PLUGIN = (
    Family("workers", "gauge", "Application processes that are shown."),
    Family("worker_up", "gauge", "Whether the application process has an association now.", _WORKER),
    Family("snapshot_age_seconds", "gauge", "Age of the last whole snapshot of an application.", _WORKER),
    Family("snapshots_total", "counter", "Whole snapshots received."),
    Family("snapshots_incomplete_total", "counter", "Snapshots of which a part did not arrive."),
    Family("snapshots_dropped_total", "counter", "Snapshots that had no room: too large, or too many processes."),
    Family("samples_omitted", "gauge", "Samples of applications that are not shown, by reason.", ("reason",)),
    Family("hosts_folded", "gauge", "Virtual hosts of applications that are shown as other."),
    Family("statsd_errors_total", "counter", "Datagrams to statsd that could not be sent."),
)
_TABLES = (
    (RESERVED, [_BUILD]),
    (APPLICATION, [_BUILD, *_BOTH, *_APPLICATION]),
    (WEB, _BOTH),
    (APPLICATION, [one._replace(labels=("peer", *one.labels)) for one in _ASSOCIATION]),
    (WEB, [one._replace(labels=("address", *one.labels)) for one in _ASSOCIATION]),
    (WEB, _WEB),
    (PLUGIN, _PLUGIN),
)
FAMILIES: dict[str, Family] = {
    prefix + family.name: family._replace(name=prefix + family.name)
    for prefix, families in _TABLES
    for family in families
}
"""By full name."""
