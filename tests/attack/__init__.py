"""An attack with files that are damaged on purpose: ``python -m tests.attack --files 20000``.

Each file of the campaign is a good one of some reader (``seeds``), changed (``mutators``) and then read and moved (``readers``).
The rule: a LoraxError that names the file, or a right result, within 10 seconds and 1 GB.
"""
