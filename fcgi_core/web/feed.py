"""The live feed: what happens, line by line, for whoever connects to a unix socket and listens.

A line is a JSON object. The first that a listener gets describes the feed; it may send one line itself, to say what it
wants of the past::

    <- {"feed": "fcgi-sctp", "version": 1, "instance": "…", "first": 1017, "next": 2042}
    -> {"since": 1900}            from this number on; or {"tail": 10}: so many of the latest
    <- {"n": 1900, "time": …, "severity": 4, "server_name": "shop.example", "message": "…", …}

Numbers rise by one; a listener that reads too slowly gets ``{"lost": COUNT, "next": NUMBER}`` in the place of what it
missed. Nobody who listens can delay the web side: a listener's queue is bounded. Nothing that it sends but that line is
looked at.
"""
