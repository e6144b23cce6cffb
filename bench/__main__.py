"""`python -m bench` is `gazebench`; torchrun starts it so: `torchrun --nproc-per-node 2 -m bench eval …`."""

import sys

from bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
