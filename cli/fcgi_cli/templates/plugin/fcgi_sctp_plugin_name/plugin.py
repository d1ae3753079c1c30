"""Reports slow requests: the application's side measures them, the web server's side shows them."""

import time

from fcgi_core.plugin import ApplicationHalf, Channel, FeedEntry, FromPeer, OptionsByHost, Plugin, Scope, WebHalf


class PluginNamePlugin(Plugin):
    """Reports requests that took longer than a limit."""

    name = "plugin_name"
    version = "0.1"

    class Options(Plugin.Options):
        # FromPeer: `fcgi-sctp set` on the web side may change it in the applications
        over: FromPeer[float] = 1.0
        """Seconds; a request that took longer is reported."""

    def channels(self, options):
        # request scope: an item belongs to a request and is sent while that request is known
        return [Channel("plugin_name", scope=Scope.REQUEST)]

    def application_half(self, host, options):
        return Application(host, options)

    def web_half(self, host, options):
        return Web(host)


class Application(ApplicationHalf):
    """Runs in the application's process and measures."""

    def __init__(self, host, options):
        self.host = host
        self.options = OptionsByHost(options)

    def configure(self, options, server_name=None):
        self.options.change(options, server_name)

    def request_end(self, request, outcome):
        if outcome.duration > self.options[request.server_name].over:
            self.host.send("plugin_name", f"{outcome.duration:.3f}".encode(), request=request)


class Web(WebHalf):
    """Runs next to the web server and writes to the live feed."""

    def __init__(self, host):
        self.host = host

    def feedback(self, channel, item, request, association):
        if request is None:
            return  # it ended so long ago that the web side has forgotten it
        text = f"{request.params.get('REQUEST_URI', '')} took {float(item):.3f} s"
        self.host.publish(
            FeedEntry(
                time=time.time(),
                severity=4,
                message=text,
                server_name=request.params.get("SERVER_NAME", ""),
                application="plugin_name",
                request=request.identity,
            )
        )
