"""The protocol core: FastCGI over SCTP without I/O, clock or threads. docs/protocol.md says what travels.

`receive(messages, now)` takes what a carrier delivered and returns events; methods queue what is to be sent, and
`take(room)` returns the messages. `hosting/driver.py` joins a connection to a carrier and a clock. Read in this order:

1. `records.py`: the bytes. Records and name-value pairs, and the private record types.
2. `states.py`: which record of a request may follow which. Two tables, which both sides use.
3. `flow.py`: the window of each request and direction.
4. `channels.py`: what a plugin declares and what a channel carried.
5. `streams.py`: which SCTP stream carries what.
6. `outbox.py`: what waits to be sent, and in which order it goes.
7. `settings.py`, `request.py`, `events.py`: the values. SETTINGS, one request, and what a connection reports.
8. `feedback.py`: the channels of one association.
9. `connection.py`: what both sides share. `_receive_message` is where every byte comes in.
10. `web.py` begins requests and takes their answers; `application.py` receives requests and answers them.

Below the core are `common` (`bounded_queue.py` holds feedback and STDERR) and the types of `sctp/carrier.py`. Nothing
here imports from above.
"""
