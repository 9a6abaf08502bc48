import sys

from fgtrain.cli import main

sys.exit(main())
