"""The protocol core: FastCGI over SCTP without I/O, clock or threads. docs/protocol.md says what travels.

`receive(messages, now)` takes what a carrier delivered and returns events; methods queue what is to be sent, and
`take(room)` returns the messages. `hosting/driver.py` joins a connection to a carrier and a clock. docs/house.md says
in which order to read it; `_receive_message` in `connection.py` is where every byte comes in.

Below the core are `common` (`bounded_queue.py` holds feedback and STDERR) and the types of `sctp/carrier.py`. Nothing
here imports from above.
"""
