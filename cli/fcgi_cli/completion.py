"""``fcgi-sctp completion SHELL``: a script that completes the command's words."""

from __future__ import annotations

import argparse
import os
import sys

__all__ = ["add_arguments", "run"]

WHERE = """
To have it always:
  bash    fcgi-sctp completion bash > /usr/share/bash-completion/completions/fcgi-sctp
  zsh     fcgi-sctp completion zsh > /usr/share/zsh/vendor-completions/_fcgi-sctp
  tcsh    fcgi-sctp completion tcsh > /etc/profile.d/fcgi-sctp.csh
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print a script that completes the words of this command."
    parser.epilog = WHERE
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        print("fcgi-sctp completion: needs the package shtab: pip install shtab", file=sys.stderr)
        return os.EX_UNAVAILABLE
    print(shtab.complete(args.parser, args.shell))
    return 0
