"""``fcgi-sctp nginx-config``: prints the configuration that a web server needs: nginx, Apache, lighttpd or HAProxy.

The texts are in ``templates/web_servers``.
"""

from __future__ import annotations

import argparse
import os
import sys

from .output import complain

__all__ = ["SERVERS", "add_arguments", "run", "snippet"]

DEFAULT_LISTEN = "unix:/run/fcgi-sctp-web-shop.sock"
"""What examples and units have for a site that is called shop. Not in /run/fcgi-sctp/: there the admin sockets are."""

TEMPLATES = os.path.join(os.path.dirname(__file__), "templates/web_servers")
SERVERS = {"nginx": "nginx.conf", "apache": "apache.conf", "lighttpd": "lighttpd.conf", "haproxy": "haproxy.cfg"}

SEVERAL_BEFORE = """\
    # max_fails=0: nginx tries each web side for each request, and never decides that none is left
"""
SEVERAL_LOCATION = """\
        # A web side that cannot be reached, or ends, costs no GET: another one gets it. A POST goes to another one only
        # if it has not been sent, because it may have been begun.
        fastcgi_next_upstream error timeout;
        fastcgi_next_upstream_tries 2;
        fastcgi_connect_timeout 1s;
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the configuration that a web server needs to pass requests to fcgi-sctp web."
    parser.add_argument("server", nargs="?", choices=tuple(SERVERS), default="nginx", help="the web server (nginx)")
    parser.add_argument("--config", "-c", metavar="FILE", help="read the address from web.listen of this file")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help=f"the address that fcgi-sctp web listens on: unix:/PATH or HOST:PORT ({DEFAULT_LISTEN})",
    )
    parser.add_argument(
        "--web",
        action="append",
        metavar="ADDRESS",
        help="the address of one of several web sides, given once for each: while one is away the others serve (nginx)",
    )
    parser.add_argument("--server-name", default="shop.example", metavar="NAME", help="the virtual host (shop.example)")


def run(args: argparse.Namespace) -> int:
    if args.web and (args.server != "nginx" or args.listen or args.config):
        complain("fcgi-sctp nginx-config", "--web is for nginx, and takes the place of --listen and --config")
        return os.EX_USAGE
    listen = args.listen
    if not args.web and listen is None and args.config is not None:
        from fcgi_core.errors import ConfigError
        from fcgi_core.process.config import load_config

        try:
            web = load_config(args.config, {}).web
        except ConfigError as error:
            complain("fcgi-sctp nginx-config", *error.problems)
            return os.EX_CONFIG
        if web is None:
            complain("fcgi-sctp nginx-config", f"{args.config}: the key `web` is missing")
            return os.EX_CONFIG
        listen = web.listen[0]
    try:
        text = snippet(args.server, *(args.web or [listen or DEFAULT_LISTEN]), server_name=args.server_name)
    except ValueError as error:
        complain("fcgi-sctp nginx-config", str(error))
        return os.EX_USAGE
    sys.stdout.write(text)
    return 0


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536


def snippet(server: str, *web_sides: str, server_name: str) -> str:
    """The configuration for a web server that passes requests to web sides: one, or several for nginx. ValueError for a
    bad address or name."""
    if not server_name or not all(letter.isalnum() or letter in "-._" for letter in server_name):
        raise ValueError(f"invalid virtual host {server_name!r}: use letters, digits and - . _")
    with open(os.path.join(TEMPLATES, SERVERS[server])) as file:
        text = file.read()
    addresses = [_address(server, one) for one in web_sides]
    if len(addresses) > 1:
        several = "".join(f"    server {address} max_fails=0;\n" for address in addresses)
        text = text.replace("    server @address@;\n", SEVERAL_BEFORE + several)
        text = text.replace("        fastcgi_pass ", SEVERAL_LOCATION + "        fastcgi_pass ")
    return text.replace("@server_name@", server_name).replace("@address@", addresses[0])


def _address(server: str, listen: str) -> str:
    """The address as the web server's configuration writes it."""
    path = listen.removeprefix("unix:")
    if path != listen:
        if not path.startswith("/") or any(letter in path for letter in " \t\n\"';{}|\\"):
            raise ValueError(f"invalid address {listen!r}: use unix:/PATH, with a path without spaces and quotes")
        return {
            "nginx": listen,
            "apache": f"unix:{path}|fcgi://localhost/",
            "lighttpd": f'"socket" => "{path}",',
            "haproxy": f"unix@{path}",
        }[server]
    host, _, port = listen.rpartition(":")
    if not host or not _is_port(port) or any(letter in host for letter in " \t\n\"';{}|\\/"):
        raise ValueError(f"invalid address {listen!r}: use unix:/PATH or HOST:PORT")
    return {
        "nginx": listen,
        "apache": f"fcgi://{listen}/",
        "lighttpd": f'"host" => "{host.strip("[]")}", "port" => {port},',
        "haproxy": listen,
    }[server]
