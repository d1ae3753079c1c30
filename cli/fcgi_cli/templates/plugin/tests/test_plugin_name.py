"""Tests plugin_name on a simulated network, without a server and without waiting."""

from fcgi_core.testing import PluginHarness, check_contract

from fcgi_sctp_plugin_name import plugin


def test_only_a_slow_request_is_reported():
    with PluginHarness(plugin(), {"over": 0.5}) as harness:
        quick, slow = harness.begin({"REQUEST_URI": "/quick"}), harness.begin({"REQUEST_URI": "/slow"})
        harness.end(quick)
        harness.run(2.0)
        harness.end(slow)
        harness.run(1.0)
        (entry,) = harness.published
        assert entry.message.startswith("/slow took 2.")


def test_a_virtual_host_has_its_own_options():
    options = {"over": 10, "hosts": {"shop.example": {"over": 0.5}}}
    with PluginHarness(plugin(), options) as harness:
        requests = [harness.begin({"SERVER_NAME": name}) for name in ("www.example", "shop.example")]
        harness.run(2.0)
        for request in requests:
            harness.end(request)
        harness.run(1.0)
        (entry,) = harness.published
        assert entry.server_name == "shop.example"


def test_the_contract_of_plugins():
    check_contract(plugin(), {"over": 0.1})
