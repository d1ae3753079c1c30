"""Running plugins: halves are made, verified and closed, their hooks are called, and their items sent and received.

One `Supervisor` runs the halves of one side in one process; `isolation` keeps them from doing harm, and `delivery`
sends their items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any

from ..common.loop import Handle, Loop
from ..errors import FcgiSctpError, LocalProtocolError, PluginError, StartAnew
from ..plugin import (
    ApplicationHalf,
    AssociationInfo,
    FeedEntry,
    Half,
    Make,
    Outcome,
    Plugin,
    RequestInfo,
    ServiceFigures,
    TransportFigures,
    WebHalf,
)
from ..plugin.traffic import Traffic
from ..protocol.channels import Channel, Direction
from .agreement import Agreement
from .delivery import Delivery
from .discovery import EnabledPlugin, name_problem, verify_half
from .driver import Driver
from .half_host import HalfHost
from .isolation import Entry, HookCaller, Tally
from .links import Link, mark_of
from .outgoing import Gathering
from .plugin_figures import PluginFigures
from .receipts import Acknowledger

__all__ = ["Supervisor"]

TICK = 1.0
"""Seconds between ticks."""


class Supervisor(HookCaller):
    """The running halves of one side."""

    def __init__(
        self,
        enabled: Iterable[EnabledPlugin],
        loop: Loop,
        wake_loop: Callable[[Callable[[], None]], object],
        *,
        web: bool,
        process_name: str = "",
        publish_all: Callable[[Iterable[FeedEntry]], None] = lambda entries: None,
        service: Callable[[], ServiceFigures] = ServiceFigures,
    ) -> None:
        """`wake_loop` is asyncio's call_soon_threadsafe; `service` returns the state of the side. PluginError if a half
        cannot be made."""
        super().__init__(loop)
        self.process_name = process_name
        self._web = web
        self.publish_all = publish_all
        self.service = service
        self.channels: list[Channel] = []
        """The channels of all running plugins, in both directions."""
        self.traffic: Traffic | None = None
        """Figures by virtual host, once they are asked for."""
        self._kind: type[Half] = WebHalf if web else ApplicationHalf
        self._wake_loop = wake_loop
        self._acknowledger: Acknowledger[Entry] = Acknowledger(
            loop, wake_loop, lambda entry: self._call(entry, entry.half.commit, failed=False)
        )
        self._by_channel: dict[str, tuple[Entry, Channel]] = {}
        self._entries: list[Entry] = []
        self._tallies: dict[str, Tally] = {}
        self._tick_handle: Handle | None = None
        self._request_begin: list[tuple[Entry, Callable[..., Any]]] = []
        self._request_end: list[tuple[Entry, Callable[..., Any]]] = []
        self._stderr: list[tuple[Entry, Callable[..., Any]]] = []
        self._tick: list[tuple[Entry, Callable[..., Any]]] = []
        self._on_silence: Callable[[], None] | None = None
        """Called when the other sides know that this side accepts nothing any more."""
        self._taking = True
        self._sends = Direction.TO_APPLICATION if web else Direction.TO_WEB
        self.delivery = Delivery((), loop, wake_loop)
        self._agreement = Agreement(self._sends, loop, self.links)
        self._figures = PluginFigures(self._kind, self.delivery, self._agreement, self._call)
        self.known = {one.plugin.name: one for one in enabled}
        """By name: all plugins of the configuration, in its order, also those that are off."""
        for one in self.known.values():
            if one.on:
                try:
                    self.start(one)
                except PluginError:
                    self.close()
                    raise

    @property
    def halves(self) -> list[Half]:
        """The running halves, in the order of the configuration."""
        return [entry.half for entry in self._entries if type(entry.half) is not self._kind]

    @property
    def links(self) -> list[Link]:
        """The associations that are up."""
        return self.delivery.links

    # ---- associations

    def association_up(self, driver: Driver[Any], identity: int, peer: str, member: str = "") -> Link:
        """Begin to use an association whose SETTINGS have come. `member`: see `AssociationInfo`."""
        settings = driver.connection.peer_settings
        assert settings is not None
        info = AssociationInfo(identity, peer, settings.name, settings.instance, member)
        mark = mark_of(driver.connection.settings if self._web else settings)
        together = self.delivery.together(info)
        link = Link(driver, info, mark, self._loop.time(), together[0].account if together else peer)
        self._inform(link)  # they may have changed since the association began
        self._agreement.compare(link, self._declared())
        self._agreement.report(link)
        link.taken = link.connection.feedback.taken
        self.delivery.add(link)
        for entry in self._entries:
            self._call(entry, entry.half.association_up, link.info)
        return link

    def association_down(self, link: Link, reason: str) -> None:
        """Stop using an association that has ended."""
        if link in self.links:
            link.down = True
            self.delivery.remove(link)
            link.connection.drop_waiting()
            self._acknowledger.forget(link)
            self._figures.close(link.connection)
            for entry in self._entries:
                self._call(entry, entry.half.association_down, link.info, reason)
            self._look_for_silence()

    def peer_changed(self, link: Link) -> None:
        """The peer accepts other channels than before, or knows which this side accepts."""
        if link not in self.links:
            return
        self._look_for_silence()
        self._agreement.compare(link, self._declared())
        before, link.taken = link.taken, link.connection.feedback.taken
        self.delivery.changed(link)
        for entry in tuple(self._entries):
            if any(channel.name in link.taken - before for channel in entry.channels):
                self._call(entry, entry.half.association_up, link.info)

    def find_requests(
        self, numbers: Iterable[int], association: AssociationInfo | None = None
    ) -> list[RequestInfo | None]:
        """See `Host.find_requests`."""
        theirs = self.links if association is None else self.delivery.together(association)
        by_mark = {link.mark: link.connection for link in theirs}
        found: list[RequestInfo | None] = []
        last = 0
        context: RequestInfo | None = None
        for number in numbers:
            if number != last:  # the lines of a request often follow each other
                last = number
                connection = by_mark.get(number & ~0xFFFFFF)
                request = None if connection is None else connection.find(number >> 8 & 0xFFFF, number & 0xFF)
                context = None if request is None else request.context
            found.append(context)
        return found

    # ---- hooks

    @property
    def follows_requests(self) -> bool:
        """Whether the ends of requests are needed."""
        return bool(self._request_end) or self.traffic is not None

    def request_begin(self, request: RequestInfo) -> None:
        """Count a request, and call each half's `request_begin`."""
        if self.traffic is not None:
            self.traffic.begin(request)
        for entry, hook in self._request_begin:
            if not (entry.aside_until and self._is_aside(entry)):
                self._run(entry, entry, "request_begin", hook, (request,))

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        """Count a request that ended, and call each half's `request_end`."""
        if self.traffic is not None:
            self.traffic.end(request, outcome)
        for entry, hook in self._request_end:
            if not (entry.aside_until and self._is_aside(entry)):
                self._run(entry, entry, "request_end", hook, (request, outcome))

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        """Pass STDERR to each half. Returns True if a plugin handles it. Any thread."""
        taken = False
        on_loop = get_ident() == self._loop_thread
        for entry, hook in self._stderr:
            if entry.aside_until and (self._is_aside(entry) if on_loop else self._loop.time() < entry.aside_until):
                continue
            takes = bool(self._run(entry, entry, "stderr", hook, (request, data), False, on_loop=on_loop))
            if takes and self._agreement.broken and self._agreement.is_unheard(entry.name, request):
                takes = False  # what it cannot send is not lost: it goes the way of all STDERR
            taken = takes or taken
        return taken

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, link: Link, number: int = 0) -> None:
        """Pass an item from the other side to its plugin, or refuse it. `number`: that of its request, if another
        association carries it."""
        known = self._by_channel.get(channel)
        if known is None:
            link.connection.feedback.refuse(channel, item)  # its plugin was switched off within this batch
            return
        entry, declared = known
        peer = entry.peer(link.account)
        if (entry.aside_until and self._is_aside(entry)) or (peer.aside_until and self._is_aside(entry, peer)):
            # it was on its way when the other side was informed; on an acknowledged channel it comes again
            link.connection.feedback.refuse(channel, item)
            return
        if declared.acknowledged:
            count, item = int.from_bytes(item[:8], "big"), item[8:]
            if not self._acknowledger.received(entry, channel, link, count) or not item:
                return  # it came before, by an association that was lost before we could acknowledge it
        if number:
            (request,) = self.find_requests((number,), link.info)
        self._run(entry, peer, "feedback", entry.half.feedback, (channel, item, request, link.info))

    def reopen(self) -> None:
        """Have each half open its files again, after SIGUSR1."""
        for entry in self._entries:
            self._call(entry, entry.half.reopen)

    def _on_tick(self) -> None:
        self._tick_handle = self._loop.call_at(self._loop.time() + TICK, self._on_tick)
        self._agreement.report_lasting()
        up = {link.account for link in self.links}
        for entry in tuple(self._entries):
            self._end_window(entry)
            self._look_at_those_aside(entry, up)
        for entry, hook in tuple(self._tick):
            self._call(entry, hook)

    def _was_set_aside(self) -> None:
        try:
            self._wake_loop(self._inform_all)
        except RuntimeError:
            pass  # on a thread of the application, and the loop is closed

    def _comes_back(self, entry: Entry) -> None:
        """Accept what waits for the plugin on the other side, and gather what it has."""
        if entry.withheld and not entry.aside_until:
            entry.withheld = False
            self.delivery.gather_soon()
        self._wake_loop(self._inform_all)

    def stop_ticks(self) -> None:
        """Stop calling `tick`."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
            self._tick_handle = None

    def take_no_more(self, on_silence: Callable[[], None]) -> None:
        """Have the other sides send nothing more before this process ends; items on their way are still accepted. The
        other sides keep the rest, or send it to another process. `on_silence` is called when they have confirmed it,
        perhaps at once."""
        self._taking = False
        self._on_silence = on_silence
        self._inform_all()
        self._look_for_silence()

    def _look_for_silence(self) -> None:
        if self._on_silence is not None and all(link.connection.is_known() for link in self.links):
            on_silence, self._on_silence = self._on_silence, None
            on_silence()

    def close(self) -> None:
        """Close each half, and send its last items; nothing is called after this."""
        self.stop_ticks()
        for entry in self._entries:
            self._close(entry)
            entry.aside_until = math.inf
        self.delivery.close()

    # ---- beginning and end of halves

    def running(self, name: str) -> Entry | None:
        """Returns the running half of a plugin; None if it is off."""
        return next((entry for entry in self._entries if entry.name == name), None)

    def start(self, one: EnabledPlugin) -> None:
        """Make a half, verify it, and run it. PluginError if that fails, and nothing has changed."""
        name = one.plugin.name
        tally = self._tallies.setdefault(name, Tally())
        entry = Entry(one, self._kind(), tally, list(one.channels), self._loop.time())
        self._entries.append(entry)
        make = one.plugin.web_half if self._web else one.plugin.application_half
        try:
            self._declare()
            host = HalfHost(self, self.delivery, name)
            half = self.bounded(make, host, one.options)
            if half is not None:
                verify_half(half, self._kind)
                entry.half = half
            taken = [self.configure(entry, options, server_name) for server_name, options in one.hosts.items()]
            if not all(taken):
                host.log.info("options of virtual hosts have no effect here: the half on this side has no configure()")
        except Exception as error:
            if type(entry.half) is not self._kind:
                self._close(entry)
            self._entries.remove(entry)
            self._declare()
            why = str(error) if isinstance(error, OSError | ValueError | FcgiSctpError) else repr(error)
            raise PluginError(f"plugin {name} cannot start: {why}") from error
        if self._tick_handle is None:
            self._tick_handle = self._loop.call_at(self._loop.time() + TICK, self._on_tick)
        self.put_in_order()
        for link in self.links:
            self._call(entry, entry.half.association_up, link.info)

    def configure(self, entry: Entry, options: Any, server_name: str | None) -> bool:
        """Configure a half with new options, or with those of one virtual host. Raises what its `configure` raises.

        A half without `configure` is restarted with new options for all hosts: StartAnew. Options of one host are
        refused with ValueError if the plugin has no half on the other side, which may use them; else returns False.
        """
        half = entry.half
        if type(half) is self._kind:
            return True  # this side has no half
        if type(half).configure is not self._kind.configure:
            self.bounded(half.configure, options, server_name)
            return True
        if server_name is None:
            raise StartAnew(f"{entry.name} has no configure")
        other = "application_half" if self._web else "web_half"
        if getattr(type(entry.enabled.plugin), other) is getattr(Plugin, other):
            raise ValueError("it takes no options of one virtual host: its half has no `configure`")
        return False

    def stop(self, entry: Entry) -> None:
        """Close a half; its last items are sent before its channels are withdrawn."""
        self._close(entry)
        self.delivery.flush()
        entry.aside_until = math.inf
        self._acknowledger.forget_owner(entry)
        self._entries.remove(entry)
        self._declare()
        self._look_at_hooks()

    def _declare(self) -> None:
        """Declare the channels of now to `delivery` and all associations. OSError, LocalProtocolError."""
        self.channels = [channel for entry in self._entries for channel in entry.channels]
        self.delivery.declare(channel for channel in self.channels if channel.direction is self._sends)
        self._by_channel = {channel.name: (entry, channel) for entry in self._entries for channel in entry.channels}
        self._inform_all()

    def _declared(self) -> list[Channel]:
        """The channels that plugins declare with their options; those that halves open come and go."""
        return [channel for entry in self._entries for channel in entry.enabled.channels]

    def _inform_all(self) -> None:
        for link in self.links:
            self._inform(link)
            self._agreement.compare(link, self._declared())

    def _inform(self, link: Link) -> None:
        link.connection.set_channels(self.channels, self._aside_on(link))
        link.driver.wake()

    def _aside_on(self, link: Link) -> set[str]:
        """Returns the channels on which nothing is accepted from an association for now."""
        aside: set[str] = set()
        for entry in self._entries:
            account = entry.peers.get(link.account)
            if not self._taking or entry.aside_until or (account is not None and account.aside_until):
                aside.update(channel.name for channel in entry.channels)
        return aside

    def put_in_order(self) -> None:
        """Call hooks in the order of the configuration."""
        order = list(self.known)
        self._entries.sort(key=lambda entry: order.index(entry.name))
        self._look_at_hooks()

    def _look_at_hooks(self) -> None:
        """Find which halves implement which hooks, so that the others cost nothing."""
        self._request_begin = self._having("request_begin")
        self._request_end = self._having("request_end")
        self._stderr = self._having("stderr")
        self._tick = self._having("tick")

    def _having(self, hook: str) -> list[tuple[Entry, Callable[..., Any]]]:
        return [
            (entry, getattr(entry.half, hook))
            for entry in self._entries
            if getattr(type(entry.half), hook) is not getattr(self._kind, hook)
        ]

    def open_channel(self, plugin: str, channel: Channel) -> None:
        """See `Host.open_channel`."""
        entry = self.running(plugin)
        if entry is None:
            raise PluginError(f"plugin {plugin} is not running any more")
        if problem := name_problem(plugin, channel):
            raise PluginError(problem)
        if channel.name in self._by_channel:
            raise PluginError(f"channel {channel.name} exists already")
        entry.channels.append(channel)
        try:
            self._declare()
        except (OSError, LocalProtocolError) as error:
            entry.channels.remove(channel)
            self._declare()
            raise PluginError(f"channel {channel.name} cannot be opened: {error}") from error

    def close_channel(self, plugin: str, name: str) -> None:
        """See `Host.close_channel`."""
        entry = self.running(plugin)
        opened = [] if entry is None else [one for one in entry.channels if one not in entry.enabled.channels]
        channel = next((one for one in opened if one.name == name), None)
        if entry is None or channel is None:
            raise PluginError(f"channel {name} was not opened by plugin {plugin}")
        self.delivery.flush()
        entry.channels.remove(channel)
        self._declare()

    def gather(self, plugin: str, channel: str, make: Make) -> Gathering:
        """See `Host.gather`."""
        entry = self.running(plugin)
        if entry is None:
            raise PluginError(f"plugin {plugin} is not running any more")
        return self.delivery.gather(channel, lambda crowded: self._gathered(entry, make, crowded))

    # ---- figures

    def follow_traffic(self) -> Traffic:
        """Returns the figures of requests by virtual host, which are counted from the first call on."""
        if self.traffic is None:
            self.traffic = Traffic()
        return self.traffic

    def transport(self) -> TransportFigures:
        """Returns the state of the associations and channels."""
        return self._figures.transport(self._entries, self.channels)

    def statistics(self) -> list[dict[str, Any]]:
        """Returns an entry for each plugin, for people and programs; times are seconds."""
        return self._figures.statistics(self.known.values(), self._entries, self._tallies, self._loop.time())
