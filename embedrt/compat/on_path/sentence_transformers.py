"""The module's file for processes that find this folder on their path: embedrt's module takes its place."""

import sys

from embedrt.compat import install

del sys.modules[__name__]
install()
