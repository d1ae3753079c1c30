"""maintenance on a simulated network."""

from __future__ import annotations

from pathlib import Path

from fcgi_sctp_maintenance import plugin, under_maintenance

from fcgi_core.testing import PluginHarness, check_contract


def test_the_application_knows_what_the_file_says_after_a_new_association_too(tmp_path: Path) -> None:
    file = tmp_path / "maintenance"
    with PluginHarness(plugin(), {"file": str(file)}) as harness:
        harness.run(2.0)
        assert not under_maintenance("shop.example")
        file.write_text("shop.example\n\nblog.example\n")
        harness.run(2.0)
        assert under_maintenance("shop.example")
        assert not under_maintenance("www.example")
        harness.disconnect()
        harness.connect()
        file.write_text("blog.example\n")
        harness.run(2.0)
        assert not under_maintenance("shop.example")
        assert under_maintenance("blog.example")
    assert not under_maintenance("blog.example")


def test_it_keeps_the_contract_of_plugins(tmp_path: Path) -> None:
    check_contract(plugin(), {"file": str(tmp_path / "none")})
