"""`python -m outlast`: the command line, where the console script is not on the path."""

import sys

from outlast.cli import main

sys.exit(main())
