"""FastCGI over SCTP: the protocol core, its carriers, and the services beside web server and application."""

__version__ = "0.1.0"
