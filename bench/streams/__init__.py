"""The choices of docs/streams.md, measured: ``script/bench``."""
