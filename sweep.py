"""Search a space by a recipe: python sweep.py SPACE RECIPE [key=value ...]."""

import sys

from miras_search.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
