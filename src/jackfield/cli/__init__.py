"""The command line: `jackfield demo | models | sites | read | doctor | methods | generate`.

Lives here: one function a command, the tables they print, and the demo. May use: every room.
Look first: `commands.py`. `jackfield --help` imports neither torch nor a model.
"""

from jackfield.cli.commands import main

__all__ = ["main"]
