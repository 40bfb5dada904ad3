"""``python -m vesselflow.notices watch``: see `arguments`."""

from __future__ import annotations

import sys

from vesselflow.errors import UserError
from vesselflow.notices.command import main

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"vesselflow.notices: {error}", file=sys.stderr)
        sys.exit(2)
