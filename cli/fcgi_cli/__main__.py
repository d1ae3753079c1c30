"""`python -m fcgi_cli`: the command `fcgi-sctp`, for interpreters that have no script directory."""

import sys

from .main import main

sys.exit(main())
