"""`python -m miras_search`: the command line."""

import sys

from miras_search.cli import main

sys.exit(main())
