"""Both sides, joined by the memory carrier: whatever the network and the users do, every request comes to its end."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench.streams.policies import POLICIES
from fcgi_core.protocol import web as web_connection
from fcgi_core.protocol.records import Role
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.states import Output
from fcgi_core.protocol.streams import Policy
from fcgi_core.sctp.carrier import LARGE_MESSAGE, LOOPBACK_MTU, PATH_MTU
from fcgi_core.sctp.memory import MemoryNetwork
from tests.protocol.world import SCOPES, Run, World


class PairMachine(RuleBasedStateMachine):
    world: World

    @initialize(
        policy=st.sampled_from(list(POLICIES.values())),
        seed=st.integers(0, 1 << 32),
        loss=st.sampled_from([0.0, 0.05, 0.3]),
        jitter=st.sampled_from([0.0, 0.02]),
        room=st.sampled_from([1500, 8192, 65536]),
        streams=st.sampled_from([3, 4, 7, 64]),
        grows=st.booleans(),
        window=st.sampled_from([1024, 3000, 1 << 18]),
        max_message=st.sampled_from([1024, 5000, 16384, LARGE_MESSAGE]),
        packet=st.sampled_from([PATH_MTU, LOOPBACK_MTU]),
        max_requests=st.sampled_from([3, 40]),
    )
    def build(
        self,
        policy: Policy | None,
        seed: int,
        loss: float,
        jitter: float,
        room: int,
        streams: int,
        grows: bool,
        window: int,
        max_message: int,
        packet: int,
        max_requests: int,
    ) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(web_connection, "REQUEST_IDS", 3)  # ids 1 to 3 alone, so generations are needed
        self.patch.setattr(web_connection, "REMEMBER_FOR", 1e9)
        network = MemoryNetwork(seed, delay=0.005, loss=loss, jitter=jitter, window=room, packet=packet)
        self.world = World(
            network,
            policy,
            web=Settings(window=window),
            app=Settings(window=2 * window, max_message=max_message, max_requests=max_requests),
            streams=streams,
            most_streams=2048 if grows else streams,
        )
        network.run_until(0.05)

    sizes = st.one_of(st.integers(0, 50), st.integers(0, 20_000))
    which = st.integers(0, 1000)

    def pick(self, which: int) -> Run:
        """One of those under way, if any is; else one that is over."""
        running = [run for run in self.world.runs if not (run.over and run.app_ended)]
        return (running or self.world.runs)[which % len(running or self.world.runs)]

    @rule(
        body=st.none() | sizes,
        role=st.sampled_from([Role.RESPONDER, Role.RESPONDER, Role.RESPONDER, Role.AUTHORIZER, Role.FILTER]),
        params=st.sampled_from([0, 20, 9000]),
        eager=st.booleans(),
    )
    def begin(self, body: int | None, role: Role, params: int, eager: bool) -> None:
        self.world.begin(body, role=role, params=params, eager=eager)

    @rule(count=st.integers(1, 8), answer=sizes)
    def begin_many(self, count: int, answer: int) -> None:
        runs = [run for _ in range(count) if (run := self.world.begin(0)) is not None]
        self.world.network.run_until(self.world.network.now + 0.02)
        for run in runs:
            self.world.send_output(run, answer)
            self.world.end(run)

    @precondition(lambda self: self.world.runs)
    @rule(which=which, size=sizes, end=st.booleans())
    def send_input(self, which: int, size: int, end: bool) -> None:
        self.world.send_input(self.pick(which), size, end=end)

    @precondition(lambda self: self.world.runs)
    @rule(which=which, size=sizes, stderr=st.just(0) | sizes, end=st.booleans(), status=st.integers(0, 9))
    def answer(self, which: int, size: int, stderr: int, end: bool, status: int) -> None:
        run = self.pick(which)
        self.world.send_output(run, size)
        self.world.send_stderr(run, stderr)
        if end:
            self.world.end(run, status)

    @precondition(lambda self: self.world.runs)
    @rule(which=which)
    def abort(self, which: int) -> None:
        self.world.abort(self.pick(which))

    @precondition(lambda self: self.world.runs)
    @rule(which=which)
    def consume(self, which: int) -> None:
        self.world.consume(self.pick(which))

    @rule(
        name=st.sampled_from(list(SCOPES)),
        count=st.integers(1, 5),
        size=sizes,
        urgency=st.integers(0, 7),
        which=which,
        any_run=st.booleans(),
        from_app=st.booleans(),
    )
    def send_feedback(
        self, name: str, count: int, size: int, urgency: int, which: int, any_run: bool, from_app: bool
    ) -> None:
        runs = self.world.runs
        run = None if not runs else runs[which % len(runs)] if any_run else self.pick(which)
        for _ in range(count):
            self.world.send_feedback(name, size, urgency, run, from_app=from_app)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01, 0.1]))
    def wait(self, seconds: float) -> None:
        self.world.network.run_until(self.world.network.now + seconds)

    @precondition(lambda self: len(self.world.runs) > 10)
    @rule()
    def drain(self) -> None:
        self.world.app.drain()
        self.world.app_driver.wake()

    @invariant()
    def credit_is_never_exceeded(self) -> None:
        if hasattr(self, "world"):
            self.world.check_windows()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.finish()
            finally:
                self.patch.undo()


PairMachine.TestCase.settings = hypothesis_settings(max_examples=100, stateful_step_count=50)
TestPair = PairMachine.TestCase


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("seed", range(3))
def test_many_requests_at_once(policy: Policy | None, seed: int) -> None:
    """Bodies both ways, slow and quick consumers, aborts by both, on a bad network: all at the same time."""
    world = World(
        MemoryNetwork(seed, delay=0.005, loss=0.05, jitter=0.02),
        policy,
        web=Settings(window=5000),
        app=Settings(window=5000, max_requests=100),
        streams=(3, 20, 300)[seed],
    )
    world.network.run_until(0.5)
    chance = random.Random(seed)
    for _ in range(100):
        run = world.begin(chance.choice([None, 0, 30, 30_000]), eager=chance.random() < 0.7)
        assert run is not None
    assert world.begin() is None
    for _ in range(400):
        world.network.run_until(world.network.now + 0.002)
        run = chance.choice(world.runs)
        match chance.randrange(8):
            case 0 | 1:
                world.send_output(run, chance.randrange(20_000))
            case 2:
                world.send_input(run, chance.randrange(20_000), end=chance.random() < 0.5)
            case 3:
                world.send_stderr(run, chance.randrange(20_000))
            case 4:
                world.send_feedback("log", chance.randrange(30_000), 3, run, from_app=chance.random() < 0.5)
            case 5:
                world.send_feedback("alert", chance.randrange(3000), 3, None, from_app=True)
            case 6:
                world.end(run, 3)
            case 7 if chance.random() < 0.2:
                world.abort(run)
    world.check_windows()
    world.finish()
    assert all(run.web_aborted or run.web.output is Output.ENDED for run in world.runs)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_end_waits_for_no_stderr_and_no_feedback(policy: Policy | None) -> None:
    """Most of what is sent is error reporting; the answer overtakes it on this side of the wire."""
    world = World(MemoryNetwork(1, delay=0.01, window=4096), policy)
    world.network.run_until(0.5)
    run = world.begin()
    assert run is not None
    world.network.run_until(1.0)
    for _ in range(20):
        world.send_feedback("log", 8000, 3, run, from_app=True)
        world.send_feedback("metrics", 8000, 3, None, from_app=True)
    world.send_stderr(run, 400_000)
    world.send_output(run, 1000)
    world.end(run)
    while not run.web_ended:
        before = world.network.now
        world.network.run_until(before + 0.01)
        assert world.network.now < 1.3
    assert len(run.got_stderr) < 100_000
    world.finish()


def test_a_slow_consumer_stops_itself_alone() -> None:
    world = World(MemoryNetwork(1), web=Settings(window=10_000))
    world.network.run_until(0.5)
    slow = [world.begin(eager=False) for _ in range(50)]
    world.network.run_until(1.0)
    for run in slow:
        assert run is not None
        world.send_output(run, 200_000)
        world.end(run)
    world.network.run_until(2.0)
    assert all(run is not None and len(run.got_output) == 10_000 for run in slow)
    quick = world.begin()
    assert quick is not None
    world.network.run_until(2.1)
    world.send_output(quick, 500_000)
    world.end(quick)
    world.network.run_until(4.0)
    assert quick.web_ended
    assert not any(run is not None and run.web_ended for run in slow)
    world.finish()
    assert world.web.pool.shortages.asked == 0


def test_a_short_pool_grows_when_the_peer_allows() -> None:
    world = World(MemoryNetwork(1), streams=3)
    world.network.run_until(0.5)
    for _ in range(40):
        world.begin(None)
    world.network.run_until(1.0)
    assert world.association.outgoing_streams == 3 + 16
    for _ in range(40):
        world.begin(None)
    for run in world.runs:
        world.send_output(run, 10)
    world.network.run_until(1.5)
    assert world.association.outgoing_streams == 3 + 16 + 19
    assert world.association.other is not None
    assert world.association.other.outgoing_streams == 3 + 16
    world.finish()
