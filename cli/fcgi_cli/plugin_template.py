"""``fcgi-sctp plugins new NAME``: a plugin's folder that installs, tests and runs at once."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

__all__ = ["write_plugin"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "fcgi-sctp-@dashed@"
version = "0.1"
description = "A feedback plugin for fcgi-sctp"
requires-python = ">=3.11"
dependencies = ["fcgi-sctp"]

# by this line fcgi-sctp finds the plugin; the name is the one under `plugins:` in the configuration
[project.entry-points."fcgi_sctp.plugins"]
@name@ = "fcgi_sctp_@name@:plugin"

[tool.setuptools]
packages = ["fcgi_sctp_@name@"]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

_README = """\
# @name@: a feedback plugin for fcgi-sctp

It tells of requests that took longer than `over` seconds.

    pip install -e .          # into the environment of fcgi-sctp, on both sides
    pytest                    # its tests, on a simulated network
    fcgi-sctp plugins show @name@

and in the configuration of both sides:

    plugins:
      @name@:
        over: 1.0
"""

_INIT = '''\
"""@name@: a feedback plugin for fcgi-sctp."""

from .plugin import @class@Plugin as plugin

__all__ = ["plugin"]
'''

_PLUGIN = '''\
"""Tells of requests that took long: what the application's side measures, the web server's side shows."""

import time

from fcgi_core.plugin import ApplicationHalf, Channel, FeedEntry, FromPeer, OptionsByHost, Plugin, Scope, WebHalf


class @class@Plugin(Plugin):
    """Tells of requests that took longer than they should."""

    name = "@name@"
    version = "0.1"

    class Options(Plugin.Options):
        # a web side may change it in its applications, which `fcgi-sctp set` asks it to
        over: FromPeer[float] = 1.0
        """Seconds beyond which a request is told of."""

    def channels(self, options):
        # of request scope: what is sent travels with its request, on a stream of its own
        return [Channel("@name@", scope=Scope.REQUEST)]

    def application_half(self, host, options):
        return Application(host, options)

    def web_half(self, host, options):
        return Web(host)


class Application(ApplicationHalf):
    """Runs in the application's process."""

    def __init__(self, host, options):
        self.host = host
        self.options = OptionsByHost(options)

    def configure(self, options, server_name=None):
        self.options.change(options, server_name)

    def request_end(self, request, outcome):
        if outcome.duration > self.options[request.server_name].over:
            self.host.send("@name@", f"{outcome.duration:.3f}".encode(), request=request)


class Web(WebHalf):
    """Runs beside the web server."""

    def __init__(self, host):
        self.host = host

    def feedback(self, channel, item, request, association):
        if request is None:
            return  # long over, and forgotten here
        text = f"{request.params.get('REQUEST_URI', '')} took {float(item):.3f} s"
        self.host.publish(
            FeedEntry(
                time=time.time(),
                severity=4,
                message=text,
                server_name=request.params.get("SERVER_NAME", ""),
                application="@name@",
                request=request.identity,
            )
        )
'''

_TEST = '''\
"""@name@ on a simulated network: no server, no waiting."""

from fcgi_core.testing import PluginHarness, check_contract

from fcgi_sctp_@name@ import plugin


def test_a_slow_request_is_told_and_a_quick_one_is_not():
    with PluginHarness(plugin(), {"over": 0.5}) as harness:
        quick, slow = harness.begin({"REQUEST_URI": "/quick"}), harness.begin({"REQUEST_URI": "/slow"})
        harness.end(quick)
        harness.run(2.0)
        harness.end(slow)
        harness.run(1.0)
        (entry,) = harness.published
        assert entry.message.startswith("/slow took 2.")


def test_a_virtual_host_has_options_of_its_own():
    options = {"over": 10, "hosts": {"shop.example": {"over": 0.5}}}
    with PluginHarness(plugin(), options) as harness:
        requests = [harness.begin({"SERVER_NAME": name}) for name in ("www.example", "shop.example")]
        harness.run(2.0)
        for request in requests:
            harness.end(request)
        harness.run(1.0)
        (entry,) = harness.published
        assert entry.server_name == "shop.example"


def test_it_keeps_the_contract_of_plugins():
    check_contract(plugin(), {"over": 0.1})
'''


def write_plugin(name: str, where: Path) -> list[Path]:
    """Write a plugin's folder `where`/`name`; the files. ValueError for a name that cannot be one, FileExistsError."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} cannot be a plugin's name: lower-case letters, digits and _, a letter first")
    folder = where / name
    folder.mkdir(parents=True)
    files = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"fcgi_sctp_{name}/__init__.py": _INIT,
        f"fcgi_sctp_{name}/plugin.py": _PLUGIN,
        f"tests/test_{name}.py": _TEST,
    }
    written = []
    for relative, template in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        text = template.replace("@name@", name).replace("@dashed@", name.replace("_", "-"))
        path.write_text(text.replace("@class@", "".join(part.capitalize() for part in name.split("_"))))
        written.append(path)
    return written
