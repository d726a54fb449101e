#!/usr/bin/env python3
"""plant.py PATH FIND REPLACE: replaces lines that stand in a file exactly once."""
import sys

path, find, replace = sys.argv[1:]
text = open(path).read()
if text.count(find) != 1:
    sys.exit(f"{path}: expected the line to stand once, found it {text.count(find)} times:\n{find}")
open(path, "w").write(text.replace(find, replace))
