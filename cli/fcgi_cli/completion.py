"""``fcgi-sctp completion SHELL``: prints a script that completes the command in a shell."""

from __future__ import annotations

import argparse
import os

from .output import complain

__all__ = ["add_arguments", "run"]

WHERE = """
To install it:
  bash    fcgi-sctp completion bash > /usr/share/bash-completion/completions/fcgi-sctp
  zsh     fcgi-sctp completion zsh > /usr/share/zsh/vendor-completions/_fcgi-sctp
  tcsh    fcgi-sctp completion tcsh > /etc/profile.d/fcgi-sctp.csh
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print a script that completes this command's subcommands and options in a shell."
    parser.epilog = WHERE
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")


def run(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        complain("fcgi-sctp completion", "the package shtab is missing: pip install shtab")
        return os.EX_UNAVAILABLE
    print(shtab.complete(args.parser, args.shell))
    return 0
