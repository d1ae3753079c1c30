"""``fcgi-sctp nginx-config``: what to write into a web server's configuration, for nginx and three others."""

from __future__ import annotations

import argparse
import os
import sys

from fcgi_core.common.text import escape

__all__ = ["SERVERS", "add_arguments", "run", "snippet"]

DEFAULT_LISTEN = "unix:/run/fcgi-sctp/web.sock"

NGINX = """\
# nginx: into http {{ }}, for example as /etc/nginx/conf.d/fcgi-sctp.conf. Check it with: nginx -t
upstream fcgi_sctp {{
    server {nginx_address};
    keepalive 32;
}}

server {{
    listen 80;
    server_name {server_name};
    client_max_body_size 16m;                   # uploads; 1m if not given

    location / {{
        include fastcgi_params;
        fastcgi_param REQUEST_ID $request_id;   # log lines carry nginx's own id of the request
        fastcgi_keep_conn on;                   # connections stay open between requests
        # Uploads stream through, with no file in between. The price: one whose client does not say how long it is
        # (chunked) has no CONTENT_LENGTH, and PHP and most WSGI applications then read it as empty.
        # fastcgi_request_buffering off;
        fastcgi_read_timeout 65s;               # longer than web.request_timeout, which answers 504 itself
        fastcgi_pass fcgi_sctp;
    }}
}}
"""

APACHE = """\
# Apache httpd 2.4: for example as /etc/apache2/sites-available/fcgi-sctp.conf. Check it with: apachectl configtest
# It needs: a2enmod proxy proxy_fcgi unique_id env
<VirtualHost *:80>
    ServerName {server_name}

    ProxyFCGIBackendType GENERIC
    # An upload whose client does not say how long it is (chunked) is kept until it is whole, so that it has a
    # CONTENT_LENGTH: without one PHP and most WSGI applications read it as empty. Faster, at that price: leave it out.
    SetEnv proxy-sendcl 1
    # log lines carry httpd's own id of the request
    ProxyFCGISetEnvIf "true" REQUEST_ID "%{{reqenv:UNIQUE_ID}}"
    ProxyPass "/" "{apache_address}" enablereuse=on timeout=65
</VirtualHost>
"""

LIGHTTPD = """\
# lighttpd: for example as /etc/lighttpd/conf-enabled/20-fcgi-sctp.conf. Check it with: lighttpd -tt -f FILE
server.modules += ( "mod_fastcgi" )
$HTTP["host"] == "{server_name}" {{
    server.stream-response-body = 1
    # Uploads stream through, with no file in between. The price: one whose client does not say how long it is
    # (chunked) is answered 411.
    # server.stream-request-body = 1
    fastcgi.server = ( "/" => ((
        {lighttpd_address}
        "check-local" => "disable",
        "fix-root-scriptname" => "enable",  # the application gets the whole path
    )) )
}}
"""

HAPROXY = """\
# HAProxy 2.2 or later: into /etc/haproxy/haproxy.cfg. Check it with: haproxy -c -f FILE
frontend www
    mode http
    bind :80
    unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid
    # HAProxy streams uploads. One whose client does not say how long it is (chunked) has no CONTENT_LENGTH, and PHP and
    # most WSGI applications would read it as empty, so it is refused. Where all read on to the end, leave it out.
    acl unknown_length req.hdr(transfer-encoding) -m found
    http-request return status 411 content-type text/plain string "send Content-Length" if unknown_length
    use_backend fcgi_sctp if {{ hdr(host),field(1,:) -i {server_name} }}

backend fcgi_sctp
    mode http
    timeout server 65s                      # longer than web.request_timeout, which answers 504 itself
    use-fcgi-app fcgi_sctp
    server web {haproxy_address} proto fcgi

fcgi-app fcgi_sctp
    docroot /
    path-info ^()(/.*)$                     # the application gets the whole path
    set-param SERVER_NAME {server_name}
    set-param REQUEST_ID %[unique-id]       # log lines carry HAProxy's own id of the request
    option keep-conn
"""

SERVERS = {"nginx": NGINX, "apache": APACHE, "lighttpd": LIGHTTPD, "haproxy": HAPROXY}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print what to write into the web server's configuration."
    parser.add_argument("server", nargs="?", choices=tuple(SERVERS), default="nginx", help="which web server (nginx)")
    parser.add_argument("--config", "-c", metavar="FILE", help="take the address from web.listen of this file")
    parser.add_argument(
        "--listen", metavar="ADDRESS", help=f"where fcgi-sctp web listens: unix:/PATH or HOST:PORT ({DEFAULT_LISTEN})"
    )
    parser.add_argument("--server-name", default="shop.example", metavar="NAME", help="virtual host (shop.example)")


def run(args: argparse.Namespace) -> int:
    listen = args.listen
    if listen is None and args.config is not None:
        from fcgi_core.errors import ConfigError
        from fcgi_core.process.config import load_config

        try:
            web = load_config(args.config, {}).web
        except ConfigError as error:
            for problem in error.problems:
                print(f"fcgi-sctp nginx-config: {escape(problem)}", file=sys.stderr)
            return os.EX_CONFIG
        if web is None:
            print(f"fcgi-sctp nginx-config: {escape(args.config)}: says nothing of `web`", file=sys.stderr)
            return os.EX_CONFIG
        listen = web.listen[0]
    try:
        text = snippet(args.server, listen or DEFAULT_LISTEN, args.server_name)
    except ValueError as error:
        print(f"fcgi-sctp nginx-config: {escape(str(error))}", file=sys.stderr)
        return os.EX_USAGE
    sys.stdout.write(text)
    return 0


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536


def snippet(server: str, listen: str, server_name: str) -> str:
    """The text for a server. ValueError if an address or a name is none."""
    if not server_name or not all(letter.isalnum() or letter in "-._" for letter in server_name):
        raise ValueError(f"{server_name!r} is no name of a virtual host")
    path = listen.removeprefix("unix:")
    if path != listen:
        if not path.startswith("/") or any(letter in path for letter in " \t\n\"';{}|\\"):
            raise ValueError(f"{listen!r}: write unix:/PATH, a path without spaces and quotes")
        return SERVERS[server].format(
            server_name=server_name,
            nginx_address=listen,
            apache_address=f"unix:{path}|fcgi://localhost/",
            lighttpd_address=f'"socket" => "{path}",',
            haproxy_address=f"unix@{path}",
        )
    host, _, port = listen.rpartition(":")
    if not host or not _is_port(port) or any(letter in host for letter in " \t\n\"';{}|\\/"):
        raise ValueError(f"{listen!r}: write unix:/PATH or HOST:PORT")
    return SERVERS[server].format(
        server_name=server_name,
        nginx_address=listen,
        apache_address=f"fcgi://{listen}/",
        lighttpd_address=f'"host" => "{host.strip("[]")}", "port" => {port},',
        haproxy_address=listen,
    )
