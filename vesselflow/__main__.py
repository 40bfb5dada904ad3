"""`python -m vesselflow`."""

import sys

from vesselflow.cli.main import main

sys.exit(main())
