"""`python -m embedrt`: the same as the command `embedrt`."""

import sys

from embedrt.cli.main import main

sys.exit(main())
