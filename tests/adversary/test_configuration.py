"""CONFIG from a web side that means harm: what it may change, how often, and what it costs."""

from __future__ import annotations

from fcgi_core.hosting.switching import MAX_CHANGES
from fcgi_core.protocol.records import RecordType, encode_pairs
from tests.adversary.lab import MIB, Lab, until
from tests.protocol.helpers import control

PLUGINS = {"syslog": {}, "metrics": {"listen": None}}


def test_nothing_but_what_plugins_let_a_web_side_change(lab: Lab) -> None:
    """It made sockets and folders in the application's file system, and turned redaction off."""

    async def attack() -> None:
        app = lab.start_app(plugins=PLUGINS)
        web = await lab.web_side(app)
        path = lab.folder / "made"
        harm = {
            "syslog.listen": str(path / "log"),
            "syslog.redact": "[]",
            "syslog.outputs": f"[{{file: {path}}}]",
            "syslog.capture": "[]",
            "syslog.max_message": "480",
            "metrics.listen": f"unix:{path}",
            "nosuch.enabled": "true",
            "syslog.severity@" + "x" * 1000: "debug",
        }
        for number, (name, value) in enumerate(harm.items()):
            web.configure(number, {name: value})
            assert all((await web.configured(number)).values()), name
        web.configure(100, {"syslog.delivery": "acknowledged", "syslog.spool": str(path)})
        assert all((await web.configured(100)).values())
        assert not path.exists()
        web.configure(101, {"syslog.severity": "debug"})
        assert await web.configured(101) == {"syslog.severity": ""}

    lab.run(attack)


def test_remote_changes_false_refuses_every_change(lab: Lab) -> None:
    async def attack() -> None:
        app = lab.start_app(plugins=PLUGINS, remote_changes=False)
        web = await lab.web_side(app)
        web.configure(1, {"syslog.severity": "debug", "metrics.enabled": "false"})
        answers = await web.configured(1)
        assert len(answers) == 2
        assert all("app.remote_changes" in reason for reason in answers.values())
        # they disagree with a web side that has no plugins, and are not switched off
        assert [one["state"] for one in await app.ask("plugins")] == ["disagrees", "disagrees"]

    lab.run(attack)


def test_values_that_are_bombs_are_refused_at_once(lab: Lab) -> None:
    """316 bytes of aliases held a request for 1.9 s and wrote 58 MB of log; 30,000 brackets were thrown."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(9 * [f'*{before}'])}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
    )

    async def attack() -> None:
        app = lab.start_app(plugins=PLUGINS)
        web = await lab.web_side(app)
        before, cpu = app.resident(), app.cpu()
        values = (bomb, "[" * 30_000, "{a: " * 300, "&a [*a]", "x" * 2000, "!!python/object/apply:os.system [ls]")
        for number, value in enumerate(values):
            web.configure(number, {"syslog.severity": value})
            assert (await web.configured(number))["syslog.severity"], value[:20]
        await lab.is_served(app)
        assert app.cpu() - cpu < 0.5
        assert app.resident() - before < 4 * MIB
        assert app.log.stat().st_size < 16_000

    lab.run(attack)


def test_a_flood_of_changes_is_refused_and_costs_no_memory(lab: Lab) -> None:
    async def attack() -> None:
        app = lab.start_app(plugins=PLUGINS)
        web = await lab.web_side(app)
        before = app.resident()
        for number in range(4 * MAX_CHANGES):
            web.configure(number, {f"syslog.severity@{number}.example": "debug"})
        answers = [await web.configured(number) for number in (0, 4 * MAX_CHANGES - 1)]
        assert list(answers[0].values()) == [""]
        assert "too many changes" in next(iter(answers[1].values()))
        await lab.is_served(app)
        assert app.resident() - before < 8 * MIB
        assert app.log.stat().st_size < 400 * MAX_CHANGES

    lab.run(attack)


def test_a_flood_of_long_changes_costs_no_memory(lab: Lab) -> None:
    """64 KiB of names in each CONFIG, as many of reasons in each answer."""

    async def attack() -> None:
        app = lab.start_app(plugins=PLUGINS)
        web = await lab.web_side(app)
        before = app.resident()
        pairs = encode_pairs({"FCGI_SCTP_ID": "1", **{f"{number:05}": "" for number in range(8000)}})
        web.send([control(RecordType.CONFIG, pairs) for _ in range(400)])
        # whether the answers can be sent in time is the path's matter: each is sent, or the association is given up
        await until(lambda: web.down or len(web.records(RecordType.CONFIG_RESULT)) >= 400, "the answers", app)
        await lab.is_served(app)
        await app.grown_since(before, 24 * MIB, "answers that nobody reads")

    lab.run(attack)
