"""`python -m ptmo_secure` is `ptmo`."""

import sys

from ptmo_secure.cli import main

sys.exit(main())
