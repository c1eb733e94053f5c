"""Finds byte strings and integer arrays in another process's memory, at any alignment.

An occurrence of a needle of at least 16 bytes covers an aligned 8-byte word that equals one of the
needle's first eight 8-byte windows, so only aligned words are looked up (through a small hash
table) and the few hits are compared in full. Permutations have entries below 256: memory is also
read as arrays of u16, u32 and u64 at every alignment and narrowed to bytes (255 for what does not
fit), so that one needle covers every integer width.
"""

import numpy as np

_PAGE_BYTES = 4096
_MARGIN_BYTES = 512  # kept around what is in use, for a needle that ends in zeros
_HASH_BITS = 20
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(64 - _HASH_BITS)


class Needles:
    """A set of named byte strings to look for, each at least 16 bytes long."""

    def __init__(self, needles):
        assert all(len(needle) >= 16 for needle in needles.values())
        self._by_window = {}
        for name, needle in needles.items():
            for shift in range(8):
                window = int.from_bytes(needle[shift : shift + 8], "little")
                self._by_window.setdefault(window, []).append((name, needle, shift))
        self._windows = np.array(sorted(self._by_window), dtype=np.uint64)
        self._table = np.zeros(1 << _HASH_BITS, dtype=bool)
        self._table[self._windows * _MULTIPLIER >> _SHIFT] = True

    def find(self, data):
        """Return the set of (name, offset) found in `data` (bytes)."""
        words = np.frombuffer(data, dtype="<u8", count=len(data) // 8)
        hits = np.flatnonzero(self._table[words * _MULTIPLIER >> _SHIFT])
        hits = hits[np.isin(words[hits], self._windows)]
        found = set()
        for index in hits:
            for name, needle, shift in self._by_window[int(words[index])]:
                start = 8 * int(index) - shift
                if start >= 0 and data[start : start + len(needle)] == needle:
                    found.add((name, start))
        return found


def narrowed(data):
    """Yield (width, bytes): `data` read as wider integers at every alignment, as bytes."""
    for width in (2, 4, 8):
        for shift in range(width):
            count = (len(data) - shift) // width
            if count >= 16:
                wide = np.frombuffer(data, dtype=f"<u{width}", count=count, offset=shift)
                yield width, np.minimum(wide, 255).astype(np.uint8).tobytes()


def readable_mappings(pid, every=True):
    """Yield (path, address, content) of the readable mappings of a process.

    Args:
        pid: the process; must be readable by this one.
        every: False: without those that cannot be written, which hold what a file holds.
    """
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            fields = line.split(None, 5)
            path = fields[5].strip() if len(fields) == 6 else "anonymous"
            readable = "r" in fields[1] and (every or "w" in fields[1])
            if not readable or path.startswith(("[vvar", "[vsyscall")):
                continue
            start, end = (int(part, 16) for part in fields[0].split("-"))
            memory.seek(start)
            try:
                yield path, start, memory.read(end - start)
            except OSError:
                continue


def flags_of(address):
    """The kernel's flags of this process's mapping that holds an address (man 5 proc).

    "dd": left out of core files; "dc": not inherited by a fork; "lo": locked in memory.
    """
    within = False
    with open("/proc/self/smaps") as maps:
        for line in maps:
            name, _, rest = line.partition(" ")
            if not name.endswith(":"):
                start, end = (int(part, 16) for part in name.split("-"))
                within = start <= address < end
            elif within and name == "VmFlags:":
                return set(rest.split())
    raise LookupError(f"nothing is mapped at {address:#x}")


def in_use(mappings):
    """Yield the parts of mappings that hold anything: pages without a set bit are left out."""
    for path, start, data in mappings:
        whole = len(data) // _PAGE_BYTES * _PAGE_BYTES
        words = np.frombuffer(data, dtype=np.uint64, count=whole // 8)
        used = np.flatnonzero(words.reshape(-1, _PAGE_BYTES // 8).any(axis=1))
        for run in np.split(used, np.flatnonzero(np.diff(used) != 1) + 1) if len(used) else ():
            begin = max(0, int(run[0]) * _PAGE_BYTES - _MARGIN_BYTES)
            yield (
                path,
                start + begin,
                data[begin : (int(run[-1]) + 1) * _PAGE_BYTES + _MARGIN_BYTES],
            )


def locate(mappings, keys, permutations):
    """Look for keys (raw) and permutations (every width).

    Args:
        mappings: (path, address, content) of each piece of memory.
        keys: {name: bytes}.
        permutations: {name: sequence of ints below 255, at least 16 long}.

    Returns:
        {name, with "u16" etc. appended for the wide forms: [(path, address), ...]}; of a wide form
        it is the address of the piece.
    """
    as_bytes = {name: bytes(perm) for name, perm in permutations.items()}
    raw, arrays = Needles({**keys, **as_bytes}), Needles(as_bytes)
    found = {}
    for path, start, data in mappings:
        for name, at in raw.find(data):
            found.setdefault(name if name in keys else f"{name} u8", []).append((path, start + at))
        for width, narrow in narrowed(data) if permutations else ():
            for name, _ in arrays.find(narrow):
                found.setdefault(f"{name} u{8 * width}", []).append((path, start))
    return found


def scan_process(pid, keys, permutations):
    """As `locate`, over every mapping of a process; returns paths alone."""
    found = locate(readable_mappings(pid), keys, permutations)
    return {name: [path for path, _ in places] for name, places in found.items()}
