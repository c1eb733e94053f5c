"""A disk that forgets: which files may be left when the power fails after any step of a program.

The steps of `ptmo_secure.sealed.files` are recorded while they run on a real folder. A file that
was not flushed may be left empty, cut in half, or whole; names change in order, and those changed
since their folder was flushed last may be lost from the end.
"""

import itertools
import os
import tempfile
from pathlib import Path

from ptmo_secure.sealed import files


class _Content:
    """The bytes of one file: written, and perhaps flushed."""

    def __init__(self):
        self.data, self.flushed = b"", False

    def left(self):
        """What of it may be left."""
        whole = {self.data}
        return whole if self.flushed else {b"", self.data[: len(self.data) // 2], *whole}


class Recorder:
    """Stands in the place of the module `os` in `files`, and of its `tempfile`."""

    def __init__(self, root):
        self.root = Path(root)
        self.contents = {}
        self.folders = {}  # folder: [names before, then after each change since its flush]
        self.states = []  # what may be left after each step: sets of {(name, bytes)}
        for path in [self.root, *self.root.rglob("*")]:
            if path.is_dir():
                self.folders[path] = [{}]
            else:
                content = _Content()
                content.data, content.flushed = path.read_bytes(), True
                self.contents[path] = content
                self.folders[path.parent][0][path.name] = content
        self._note()

    def __getattr__(self, name):
        return getattr(os, name)

    def mkstemp(self, **given):
        handle, name = tempfile.mkstemp(**given)
        path = Path(name)
        self.contents[path] = _Content()
        self._change(path.parent, **{path.name: self.contents[path]})
        return handle, name

    def fsync(self, handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        self._look()
        self._note()
        if path in self.folders:
            self.folders[path] = self.folders[path][-1:]
        else:
            self.contents[path].flushed = True
        self._note()

    def replace(self, source, target):
        self._look()
        os.replace(source, target)
        source, target = Path(source), Path(target)
        self.contents[target] = self.contents.pop(source)
        self._change(source.parent, **{source.name: None, target.name: self.contents[target]})

    def unlink(self, name):
        os.unlink(name)
        self.contents.pop(Path(name))
        self._change(Path(name).parent, **{Path(name).name: None})

    def _look(self):
        for path, content in self.contents.items():
            if not content.flushed:
                content.data = path.read_bytes()

    def _change(self, folder, **names):
        after = {**self.folders[folder][-1], **names}
        self.folders[folder].append({name: c for name, c in after.items() if c is not None})
        self._look()
        self._note()

    def _note(self):
        """Remember every state that a power failure at this moment may leave."""
        for versions in itertools.product(*self.folders.values()):
            files_left = [
                (folder / name, content.left())
                for folder, names in zip(self.folders, versions, strict=True)
                for name, content in names.items()
            ]
            for choice in itertools.product(*(left for _, left in files_left)):
                state = frozenset(
                    (str(path.relative_to(self.root)), data)
                    for (path, _), data in zip(files_left, choice, strict=True)
                )
                if state not in self.states:
                    self.states.append(state)


def states_after(monkeypatch, root, work):
    """Run `work` on the folder `root`; return every state that may be left on the way.

    Args:
        monkeypatch: pytest's.
        root: the folder, with its files flushed.
        work: changes files through `ptmo_secure.sealed.files` alone.

    Returns:
        A list of {(name, bytes)}: the first is what was there before, the last what is there now.
    """
    recorder = Recorder(root)
    with monkeypatch.context() as patched:
        patched.setattr(files, "os", recorder)
        patched.setattr(files, "tempfile", recorder)
        work()
    return recorder.states


def lay_out(state, folder):
    """Make a folder that holds a state."""
    (folder / "objects").mkdir(parents=True)
    for name, data in state:
        (folder / name).write_bytes(data)
    return folder
