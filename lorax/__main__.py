import sys

from lorax.cli import main

sys.exit(main())
