"""Items of feedback on their way from plugins to associations.

Plugins send items on any thread; the loop dequeues them (`inbox`) and gives each to the association that carries it
(`links`). Where there is none yet, or the channel is acknowledged, items are kept with their channel (`outgoing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from ..common.loop import Loop
from ..errors import PluginError
from ..plugin import AssociationInfo, Make, RequestInfo
from ..protocol.channels import MAX_ITEM, Channel, Scope
from ..protocol.events import ItemsAcknowledged
from ..protocol.feedback import REFERENCE
from ..protocol.request import Request
from .driver import Driver
from .inbox import GATHER_AFTER, MOST, TURN, Inbox, WakeLoop, WakeUp
from .links import Link, RoutedRequest, Router, mark_of
from .outgoing import Gathering, Outgoing, PlainChannel, Quota, SpooledChannel, spool_path

__all__ = ["Delivery", "Link", "MAX_EXTRA_STREAMS", "Stream", "mark_of"]

_STREAMS = "fcgi_sctp.streams"
"""In `RequestInfo.plugin_data`: how many more streams were opened, by channel. No plugin has a dot in its name."""
MAX_EXTRA_STREAMS = 16
"""Streams that one request may have on one channel in addition to its first."""


class Stream:
    """Implements `fcgi_core.plugin.Stream`: one more stream of a request, to which its items go."""

    __slots__ = ("_channel", "_delivery", "_target", "extra")

    def __init__(self, delivery: Delivery, channel: str, target: RoutedRequest, extra: int) -> None:
        self._delivery = delivery
        self._channel = channel
        self._target = target
        self.extra = extra
        """Its number among the additional streams of the request on the channel, from 1."""

    @property
    def link(self) -> Link:
        return self._target.link

    @property
    def request(self) -> Request:
        return self._target.request

    def send(self, item: bytes, *, urgency: int = 6) -> None:
        self._delivery.queue(self._channel, item, self, urgency)


Target = RequestInfo | AssociationInfo | Stream | None


class Delivery:
    """The sending half of all channels of one process."""

    def __init__(self, channels: Iterable[Channel], loop: Loop, wake_loop: WakeLoop) -> None:
        """`channels` are those that this side sends on at first. OSError if the spool of one cannot be opened."""
        self.lost: dict[str, int] = {}
        """Events by channel that found no association and no room to wait."""
        self._loop = loop
        self._wake_loop = wake_loop
        self._router = Router(loop)
        self._inbox = Inbox(self.send_queued, loop, wake_loop)
        self._gather_soon = WakeUp(self._gather, loop, wake_loop)
        self._channels: dict[str, Outgoing] = {}
        self._spooled: list[SpooledChannel] = []
        """The acknowledged ones of these."""
        self._withdrawn: dict[str, Outgoing] = {}
        """Channels as they were declared before: threads may still send on them, and what is in their spools goes when
        they are declared again."""
        self._quotas: dict[str, Quota] = {}
        """By plugin."""
        self.declare(channels)

    @property
    def links(self) -> list[Link]:
        """The associations that are up, the oldest first."""
        return self._router.links

    # ---- declarations

    def declare(self, channels: Iterable[Channel]) -> None:
        """Send on these channels from now on. The caller informs the connections next. OSError if a spool cannot be
        opened, and nothing has changed."""
        fresh: dict[str, Outgoing] = {}
        opened: list[SpooledChannel] = []
        for channel in channels:
            known = self._channels.get(channel.name)
            if known is not None and known.channel == channel:
                fresh[channel.name] = known
                continue
            plugin = channel.name.partition(".")[0]
            quota = self._quotas.setdefault(plugin, Quota(plugin, self._loop))
            if not channel.acknowledged:
                fresh[channel.name] = PlainChannel(channel, quota, self.lost)
                continue
            before = self._with_spool(channel.name)
            spool = before.spool if before is not None and before.spool.path == spool_path(channel) else None
            try:
                spooled = SpooledChannel(channel, quota, self.lost, self._router, self._loop, self._wake_loop, spool)
            except OSError:
                for one in opened:
                    one.spool.close()
                raise
            fresh[channel.name] = spooled
            if spool is None:
                opened.append(spooled)
        for name, known in self._channels.items():
            if fresh.get(name) is not known:
                known.withdraw()
                if isinstance(known, SpooledChannel) or not isinstance(self._withdrawn.get(name), SpooledChannel):
                    self._withdrawn[name] = known
        self._channels = fresh
        self._spooled = [one for one in fresh.values() if isinstance(one, SpooledChannel)]
        for spooled in self._spooled:
            self._take_over_spool(spooled)
        self._router.declare(one.channel for one in fresh.values())

    def _with_spool(self, name: str) -> SpooledChannel | None:
        """The channel as it was declared with a spool, now or before."""
        for known in (self._channels.get(name), self._withdrawn.get(name)):
            if isinstance(known, SpooledChannel):
                return known
        return None

    def _take_over_spool(self, spooled: SpooledChannel) -> None:
        """The channel is declared again: it has the spool that rested, or another one, and that one is closed."""
        resting = self._withdrawn.pop(spooled.name, None)
        if not isinstance(resting, SpooledChannel):
            return
        if resting.spool is spooled.spool:
            spooled.spool.bound = spooled.channel.queue_bytes
            return
        resting.spool.close()
        if resting.spool.path is None:
            spooled.count_lost(len(resting.spool))

    # ---- any thread

    def queue(self, channel: str, item: bytes, target: Target, urgency: int) -> None:
        """Queue an item for the loop. PluginError for a channel that was not declared."""
        outgoing = self._channels.get(channel)
        if outgoing is None:
            if channel not in self._withdrawn:
                raise PluginError(f"channel {channel!r} was not declared for sending on this side")
            self._withdrawn[channel].lose(item)  # a thread that has not noticed yet
            return
        if isinstance(outgoing, SpooledChannel):
            if outgoing.keep(item):
                self._inbox.wake(target, urgency)
        elif not outgoing.quota.spend() and not (self._inbox.let_loop_go_first() and outgoing.quota.spend()):
            outgoing.exceed(item)
        elif not self._inbox.add((channel, item, target, urgency)):
            outgoing.lose(item)

    def gather(self, channel: str, make: Make) -> Gathering:
        """See `Host.gather`. PluginError for a channel that was not declared, or of request scope."""
        outgoing = self._channels.get(channel)
        if outgoing is None or outgoing.channel.scope is Scope.REQUEST:
            raise PluginError(f"channel {channel!r} was not declared for sending on this side at association scope")
        gathering = Gathering(outgoing, make, self._gather_soon)
        outgoing.gatherings.append(gathering)
        return gathering

    def broadcast(self, channel: str, item: bytes) -> None:
        """Queue an item for each process that accepts the channel."""
        for link in self._router.of_processes(channel):
            self.queue(channel, item, link.info, 6)

    def gather_soon(self) -> None:
        """Have the loop call each `make`."""
        self._gather_soon.ask()

    def open_stream(self, channel: str, request: RequestInfo) -> Stream:
        """See `Host.open_stream`."""
        outgoing = self._channels.get(channel)
        if outgoing is None or outgoing.channel.scope is not Scope.REQUEST:
            raise PluginError(f"channel {channel!r} was not declared for sending on this side at request scope")
        opened = request.plugin_data.setdefault(_STREAMS, {})
        opened.setdefault(channel, 0)
        opened[channel] += 1  # another thread may do the same: nothing is called in between
        extra = opened[channel]
        if extra > MAX_EXTRA_STREAMS:
            raise PluginError(f"channel {channel}: a request can have at most {MAX_EXTRA_STREAMS} additional streams")
        return Stream(self, channel, cast(RoutedRequest, request), extra)

    # ---- the loop's thread

    def _gather(self) -> None:
        if self._gather_all():
            self._gather_soon.ask_after(GATHER_AFTER)

    def _gather_all(self) -> bool:
        """Send the items of all gatherings. Returns whether there were any."""
        touched: set[Driver[Any]] = set()
        found = False
        for outgoing in self._channels.values():
            for gathering in outgoing.gatherings:
                found = self._gather_one(outgoing, gathering, touched) or found
        _wake(touched)
        return found

    def _gather_one(self, outgoing: Outgoing, gathering: Gathering, touched: set[Driver[Any]]) -> bool:
        found = False
        route = self._router.route(outgoing.name)
        for item, urgency, association in gathering.make(outgoing.crowded(route)):
            found = True
            if isinstance(outgoing, SpooledChannel):
                outgoing.keep(item)
            elif not outgoing.quota.spend():
                outgoing.exceed(item)
            else:
                link = self._send(outgoing.name, item, association, urgency)
                if link is not None:
                    touched.add(link.driver)
        if isinstance(outgoing, SpooledChannel):
            filled = outgoing.fill()
            if filled is not None:
                touched.add(filled.driver)
        return found

    def send_waiting(self) -> None:
        """Send what is queued before a request ends."""
        if self._inbox.items:
            self.send_queued()

    def send_queued(self) -> None:
        """Send what is queued, and come again if it is much."""
        queue = self._inbox.items
        touched: set[Driver[Any]] = set()
        routes = self._router.routes
        for _ in range(min(len(queue), TURN)):
            channel, item, target, urgency = queue.popleft()
            link = routes.get(channel) if target is None else None
            if link is not None:
                link.connection.send_feedback(channel, item, None, urgency)
            else:
                link = self._send(channel, item, target, urgency)
            if link is not None:
                touched.add(link.driver)
        if queue:
            self._inbox.wake()
        for spooled in self._spooled:
            if spooled.filled:
                filled = spooled.fill()
                if filled is not None:
                    touched.add(filled.driver)
        _wake(touched)

    def flush(self) -> None:
        """Send what is queued and what can be gathered; not all, where threads go on adding."""
        for _ in range(MOST // TURN):
            if not self._gather_all():
                break
        for _ in range(MOST // TURN):
            if not self._inbox.items and not any(one.filled for one in self._spooled):
                break
            self.send_queued()

    def _send(self, name: str, item: bytes, target: Target, urgency: int) -> Link | None:
        """Give an item to an association. Returns it, None if the item waits or is lost."""
        outgoing = self._channels.get(name)
        if outgoing is None:
            self._withdrawn[name].lose(item)  # it was withdrawn meanwhile
            return None
        # a request has no link before an application has accepted it
        own: Link | None = getattr(target, "link", None)
        if outgoing.channel.scope is Scope.REQUEST:
            request = getattr(target, "request", None)
            if request is None or own is None or own.down:
                outgoing.lose(item)
                return None
            link = self._router.quickest(name, own)
            if link is own or len(item) > MAX_ITEM - REFERENCE:
                own.connection.send_feedback(name, item, request, urgency, getattr(target, "extra", 0))
                return own
            number = own.mark | request.id << 8 | request.generation
            link.connection.send_feedback(name, item, None, urgency, of=number)
            return link
        found = None if own is None or own.down else self._router.beside(name, own)
        if found is None:
            to = target if isinstance(target, AssociationInfo) else None if own is None else own.info
            found = self._router.route(name, to)
        if found is not None:
            found.connection.send_feedback(name, item, None, urgency)
        elif isinstance(outgoing, PlainChannel):
            outgoing.wait(item, urgency)
        return found

    # ---- associations

    def together(self, info: AssociationInfo) -> Sequence[Link]:
        """Returns the associations with the process of `info`, the oldest first."""
        return self._router.together(info)

    def add(self, link: Link) -> None:
        """An association is up: what waited goes to it."""
        self._router.add(link)
        self.changed(link)

    def changed(self, link: Link) -> None:
        """The peer accepts other channels than before: send what waited for them, and send elsewhere, or again, what is
        on a channel that it does not accept any more, or did not for a while."""
        self._router.routes.clear()
        feedback = link.connection.feedback
        lapsed, feedback.lapsed = feedback.lapsed, frozenset()
        for outgoing in self._channels.values():
            takes = link.connection.takes(outgoing.name)
            if not takes or outgoing.name in lapsed:
                self._send_elsewhere(outgoing, link)
            if takes and isinstance(outgoing, SpooledChannel):
                self._fill(outgoing)
            elif takes:
                outgoing.go_to(link)
        link.driver.wake()

    def remove(self, link: Link) -> None:
        """The association is gone: send elsewhere what it had not acknowledged, or not handed to SCTP yet; to the same
        process, if it has another."""
        link.down = True
        self._router.remove(link)
        for outgoing in self._channels.values():
            self._send_elsewhere(outgoing, link)
        for withdrawn in self._withdrawn.values():
            if isinstance(withdrawn, SpooledChannel):
                withdrawn.spool.forget(link)

    def _send_elsewhere(self, outgoing: Outgoing, link: Link) -> None:
        waiting = link.connection.feedback.take_back(outgoing.name)
        if isinstance(outgoing, SpooledChannel):
            if outgoing.spool.forget(link):
                self._fill(outgoing)
            return
        touched: set[Driver[Any]] = set()
        for item, urgency in waiting:
            if outgoing.channel.scope is Scope.REQUEST:
                other = self._send_of_request(outgoing, item, urgency, link)
            else:
                other = self._send(outgoing.name, item, link.info, urgency)
            if other is not None:
                touched.add(other.driver)
        _wake(touched)

    def _send_of_request(self, outgoing: Outgoing, item: bytes, urgency: int, link: Link) -> Link | None:
        """Send an item with its request's number, which `link` had, on another association with the process."""
        other = self._router.with_process(outgoing.name, link.info)
        number, item = int.from_bytes(item[:REFERENCE], "big"), item[REFERENCE:]
        if other is None:
            outgoing.lose(item)
        else:
            other.connection.send_feedback(outgoing.name, item, None, urgency, of=number)
        return other

    def _fill(self, spooled: SpooledChannel) -> None:
        link = spooled.fill()
        if link is not None:
            link.driver.wake()

    def acknowledged(self, link: Link, event: ItemsAcknowledged) -> None:
        """The peer has acknowledged what was sent to it on a channel."""
        spooled = self._with_spool(event.channel)
        if spooled is not None:
            spooled.spool.acknowledge(link, event.number, event.first)
            if self._channels.get(event.channel) is spooled:
                self._fill(spooled)

    def waiting(self, channel: str) -> int:
        """The number of items on a channel that wait for an association, or for an acknowledgement."""
        outgoing = self._channels.get(channel)
        return 0 if outgoing is None else outgoing.waiting()

    def close(self) -> None:
        """Send what is queued, and report what is lost because there is no peer; a spool's file keeps its items."""
        self._inbox.close()
        self._gather_soon.closed = True
        self.flush()
        for outgoing in self._channels.values():
            outgoing.close(peers=bool(self.links))
        for withdrawn in self._withdrawn.values():
            withdrawn.close(peers=True)


def _wake(drivers: Iterable[Driver[Any]]) -> None:
    for driver in drivers:
        driver.wake()
