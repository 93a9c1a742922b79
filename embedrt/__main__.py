"""`python -m embedrt`: the same as the command `embedrt`."""

import sys

from embedrt.cli import main

sys.exit(main())
