"""One address that opens associations without number and says nothing on them."""

from __future__ import annotations

from fcgi_core.app.admission import MAX_ASSOCIATIONS_PER_ADDRESS
from fcgi_core.protocol.records import RecordType
from tests.adversary.lab import Lab, until

MANY = 200


def test_associations_without_settings_give_way(lab: Lab) -> None:
    """One address took all 4,096 places; a lawful web side waited for 7 s."""

    async def attack() -> None:
        app = lab.start_app()
        ends = [await lab.web_side(app, settle=False) for _ in range(MANY)]
        gone = MANY - MAX_ASSOCIATIONS_PER_ADDRESS
        await until(lambda: sum(bool(end.down) for end in ends) >= gone, "the oldest give way", app)
        assert not ends[-1].down, "the others are still there when the lawful one comes"
        await lab.is_served(app)  # from the same address
        assert "no SETTINGS" in await ends[0].reason()
        lawful = await lab.web_side(app)
        assert len((await app.status())["associations"]) == 1
        silent = [await lab.web_side(app, settle=False) for _ in range(MAX_ASSOCIATIONS_PER_ADDRESS)]
        await until(lambda: bool(silent[0].down), "the oldest gives way", app)
        assert not lawful.down, "who has said who it is keeps its place"
        lawful.request()
        await lawful.comes(RecordType.END_REQUEST)

    lab.run(attack)
