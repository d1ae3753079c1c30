"""The operator's day loses what its table says, and nothing else. It takes more than a minute, so it runs by itself:
`script/test -m minute` (with -rP it shows the table)."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.system.dns import DNSMASQ
from tests.system.operators_day import run_day, table


def _missing() -> str:
    if os.geteuid() != 0:
        return "namespaces need root"
    if DNSMASQ is None or not all(shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("rsyslogd", "php-fpm8.2")):
        return "dnsmasq, rsyslogd and php-fpm are needed (script/setup test)"
    space = f"day-{os.getpid()}-probe"
    add, cable = (
        ["ip", "netns", "add", space],
        ["ip", "-n", space, "link", "add", "near", "type", "veth", "peer", "name", "far"],
    )
    can = [subprocess.run(command, capture_output=True).returncode == 0 for command in (add, cable)]
    subprocess.run(["ip", "netns", "del", space], capture_output=True)
    return "" if all(can) else "this system allows no network namespaces with cables between"


@pytest.mark.minute
@pytest.mark.timeout(400)
def test_each_step_loses_what_the_table_says() -> None:
    if missing := _missing():
        pytest.skip(missing)
    result = run_day()
    print(table(result))
    bad = {row.step.name: row.lost for row in result.rows if not row.good}
    assert not bad, f"{bad}\n{table(result)}"
    assert result.lines_lost["file"] == 0
