"""The one thing pyproject.toml cannot say yet: the cffi extension of the userspace SCTP carrier."""

from setuptools import setup

setup(cffi_modules=["fcgi_core/sctp/_usrsctp_build.py:ffibuilder"])
