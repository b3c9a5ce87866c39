"""Files as they come out of broken tools: some of the right content, some of it cut out, replaced or repeated."""

from __future__ import annotations

from hypothesis import strategies as st

WORDS = [
    b"",
    b"nan",
    b"-1",
    b"1e400",
    b"\x00",
    b"\xff\xfe",
    b"<",
    b">",
    b"&",
    b"{",
    b"[",
    b":",
    b"\n",
    b" ",
    b"- ",
    b"0x",
    b"9",
]


def mangled(content: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, or this content with a few pieces replaced."""

    @st.composite
    def edited(draw: st.DrawFn) -> bytes:
        data = content
        for _ in range(draw(st.integers(0, 4))):
            start = draw(st.integers(0, len(data)))
            end = min(start + draw(st.integers(0, 12)), len(data))
            data = data[:start] + draw(st.sampled_from(WORDS) | st.binary(max_size=6)) + data[end:]
        return data

    return st.binary(max_size=60) | edited()
