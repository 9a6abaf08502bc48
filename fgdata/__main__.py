import sys

from fgdata.cli import main

sys.exit(main())
