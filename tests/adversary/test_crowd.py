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
        lawful = await lab.web_side(app)  # all are at the same address
        ends = [await lab.web_side(app, settle=False) for _ in range(MANY)]
        gone = MANY + 1 - MAX_ASSOCIATIONS_PER_ADDRESS
        await until(lambda: sum(bool(end.down) for end in ends) >= gone, "the oldest give way", app)
        assert not ends[-1].down, "the others are still there when the next lawful one comes"
        await lab.is_served(app)
        assert "no SETTINGS" in await ends[0].reason()
        assert not lawful.down, "who has said who it is keeps its place"
        assert len((await app.status())["associations"]) == 1
        lawful.request()
        await lawful.comes(RecordType.END_REQUEST)
        print(f"{sum(not end.down for end in ends)} of {MANY} are left")

    lab.run(attack)
