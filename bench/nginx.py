"""Debian's nginx with a configuration of our own: one worker, loopback, nothing outside the run's folder."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

from bench.install import which
from bench.processes import Running
from bench.servers import Server

KEPT_CONNECTIONS = 1024
"""Idle connections that nginx may keep to a server: more than --connections, so that none is closed early."""

CONFIGURATION = """\
# written by bench/throughput.py
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    # bodies of 1 MiB pass through memory both ways: the disk is not what is measured
    client_max_body_size 16m;
    client_body_buffer_size 2m;
    upstream peer {{
        server {address};
        {upstream_keepalive}
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
{passing}
        }}
    }}
}}
"""

FASTCGI = """\
            fastcgi_pass peer;
            {keep_conn}
            fastcgi_buffer_size 16k;
            fastcgi_buffers 32 32k;
            fastcgi_busy_buffers_size 256k;
            fastcgi_max_temp_file_size 0;
            fastcgi_read_timeout 20s;
            # Debian's fastcgi_params, with the application mounted at /
            fastcgi_param SCRIPT_NAME "";
            fastcgi_param PATH_INFO $document_uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param DOCUMENT_URI $document_uri;
            fastcgi_param DOCUMENT_ROOT $document_root;
            fastcgi_param SERVER_PROTOCOL $server_protocol;
            fastcgi_param REQUEST_SCHEME $scheme;
            fastcgi_param GATEWAY_INTERFACE CGI/1.1;
            fastcgi_param SERVER_SOFTWARE nginx/$nginx_version;
            fastcgi_param REMOTE_ADDR $remote_addr;
            fastcgi_param REMOTE_PORT $remote_port;
            fastcgi_param SERVER_ADDR $server_addr;
            fastcgi_param SERVER_PORT $server_port;
            fastcgi_param SERVER_NAME $server_name;
            {script}"""

HTTP = """\
            proxy_pass http://peer;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffer_size 16k;
            proxy_buffers 32 32k;
            proxy_busy_buffers_size 256k;
            proxy_max_temp_file_size 0;
            proxy_read_timeout 20s;"""


def configuration(server: Server, fields: dict[str, str], port: int, folder: Path) -> str:
    """nginx.conf for one server under test; ``fields`` are what its templates are filled with."""
    keepalive = f"keepalive {KEPT_CONNECTIONS}; keepalive_requests 1000000000;" if server.keepalive else ""
    passing = HTTP
    if server.protocol == "fastcgi":
        script = f"fastcgi_param SCRIPT_FILENAME {server.script.format_map(fields)};" if server.script else ""
        passing = FASTCGI.format(keep_conn="fastcgi_keep_conn on;" if server.keepalive else "", script=script)
    user = ""
    if os.geteuid() == 0:  # the worker would become "nobody", who may not open the servers' sockets
        user = f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};"
    return CONFIGURATION.format(
        user=user,
        folder=folder,
        address=server.address.format_map(fields),
        upstream_keepalive=keepalive,
        port=port,
        passing=passing,
    )


def start(server: Server, fields: dict[str, str], port: int, folder: Path) -> Running:
    """Starts nginx; its complaints about the server under test go to ``nginx-error.log`` in the folder."""
    program = which("nginx")
    if program is None:
        raise FileNotFoundError("nginx is not installed")
    path = folder / "nginx.conf"
    path.write_text(configuration(server, fields, port, folder))
    errors = folder / "nginx-error.log"
    return Running("nginx", (program, "-e", str(errors), "-c", str(path)), folder / "nginx.log")


def complaints(folder: Path) -> list[str]:
    """What nginx wrote to its error log so far, without the names of the run's folder."""
    try:
        text = (folder / "nginx-error.log").read_text(errors="replace")
    except FileNotFoundError:
        return []
    return text.replace(f"{folder}/", "").splitlines()
