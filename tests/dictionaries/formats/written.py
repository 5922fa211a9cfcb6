"""By hand: writes every kind of dictionary in every format, for `libraries.py check` to load.

python -m tests.dictionaries.formats.written FOLDER
"""

import sys
from pathlib import Path

from safetensors.torch import save_file
from tests.dictionaries.formats.cases import rows, writable

from jackfield.dictionaries import save_dictionary

if __name__ == "__main__":
    for name, format, dictionary in writable():
        folder = save_dictionary(dictionary, Path(sys.argv[1]) / name, format=format)
        x = rows()
        found = {"x": x, "codes": dictionary.encode(x), "rebuilt": dictionary.reconstruct(x)}
        found["lengths"] = dictionary.directions.norm(dim=1)
        save_file(found, folder / "ours.safetensors")
