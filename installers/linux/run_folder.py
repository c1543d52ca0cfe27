"""Makes the package's folder a program: `python3 -I FOLDER` finds the libraries beside this file and nobody else's."""

import sys

from peerllm.cli import main

sys.exit(main())
