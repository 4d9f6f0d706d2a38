"""Triangle attention, the operation alone, against every peer that is installed.

`options` says what can be asked for and imports nothing heavy, `run` measures, `record` writes files.
"""
