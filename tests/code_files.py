"""Files that run code when they are obeyed: what no reader of data may do."""

import os
import pickle
import zipfile

import numpy as np
import torch

FORMS = ["pickle", "torch", "numpy", "zip"]


class Marks:
    """Makes the folder `marker` when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def as_code(form, path, marker):
    """Write a file that creates `marker` when it is unpickled."""
    if form == "pickle":
        path.write_bytes(pickle.dumps(Marks(marker)))
    elif form == "torch":
        torch.save({"weights": Marks(marker)}, path)
    elif form == "numpy":
        with path.open("wb") as file:
            np.save(file, np.array(Marks(marker), dtype=object), allow_pickle=True)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Marks(marker)))


def obey(form, path):
    """Read such a file as a careless reader would."""
    if form == "pickle":
        pickle.loads(path.read_bytes())
    elif form == "torch":
        torch.load(path, weights_only=False)
    elif form == "numpy":
        np.load(path, allow_pickle=True)
    else:
        pickle.loads(zipfile.ZipFile(path).read("archive/data.pkl"))
