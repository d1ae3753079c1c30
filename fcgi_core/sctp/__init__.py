"""SCTP carriers: one interface (:mod:`fcgi_core.sctp.carrier`), several implementations."""
