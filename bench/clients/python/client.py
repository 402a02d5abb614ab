"""The Python client against the nodes behind one URL; it ends with 1 if something differs."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
from durable_streams import DurableStream, SeqConflictError, StreamNotFoundError, stream


def same(who, got, want):
    if got != want:
        at = next((i for i, (g, w) in enumerate(zip(got, want)) if g != w), min(len(got), len(want)))
        sys.exit(f"{who}: {len(got)} of {len(want)}, different at {at}: {got[at:at + 1]}, want {want[at:at + 1]}")


def messages(start, n):
    return [{"i": i, "text": f"message {i} é🪭\n"} for i in range(start, start + n)]


def catch_up(url):
    """Appends one by one and from many threads, and everything again from each place on the way."""
    handle = DurableStream.create(url, content_type="application/json")
    first = messages(0, 50)
    marks = [(handle.append(m).next_offset, i + 1) for i, m in enumerate(first)]
    with ThreadPoolExecutor(8) as pool:  # which the client sends in batches
        list(pool.map(handle.append, messages(50, 150)))
    with stream(url, live=False) as res:
        items = res.read_json()
    same("catch-up, first", items[:50], first)
    same("catch-up, the threads'", sorted(items[50:], key=lambda m: m["i"]), messages(50, 150))
    for offset, count in marks:
        with stream(url, offset=offset, live=False) as res:
            same(f"after {count}", res.read_json(), items[count:])
    same("head", [handle.head().offset, handle.head().content_type], [res.offset, "application/json"])


def text(url):
    handle = DurableStream.create(url, content_type="text/plain")
    parts = ["one\n", " two", "\n\nthree", "é🪭"]
    for part in parts:
        handle.append(part)
    with stream(url, live=False) as res:
        same("text", res.read_text(), "".join(parts))


def follow(url, live):
    """A reader that is there from the start, one that resumes in the middle, and a writer."""
    handle = DurableStream.create(url, content_type="application/json")
    want = messages(0, 200)
    half = threading.Event()

    def read(offset, n):
        items, at = [], None
        with stream(url, offset=offset, live=live, timeout=20) as res:
            for batch in res.iter_json_batches():
                items += batch
                if len(items) >= 100:
                    half.set()
                if len(items) >= n:
                    break
            at = res.offset
        return items, at

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, "-1", len(want)) for _ in range(3)]
        for m in want[:100]:
            handle.append(m)
        if not half.wait(20):
            sys.exit(f"{live}: no reader had half of it after 20 s")
        offset = handle.head().offset
        resumed = pool.submit(read, offset, 100)
        for m in want[100:]:
            handle.append(m)
        for i, r in enumerate(readers):
            same(f"{live}, reader {i}", r.result()[0], want)
        same(f"{live}, resumed", resumed.result()[0], want[100:])


def refused(url):
    handle = DurableStream.create(url, content_type="application/json")
    handle.append(1, seq="b")
    try:
        handle.append(2, seq="a")
        sys.exit("a lower Stream-Seq was taken")
    except SeqConflictError:
        pass
    handle.append(3, seq="c")
    with stream(url, live=False) as res:
        same("with Stream-Seq", res.read_json(), [1, 3])
    handle.delete()
    try:
        handle.head()
        sys.exit("it is still there")
    except StreamNotFoundError:
        pass


base = sys.argv[1]
httpx.get(base + "-none").status_code == 404 or sys.exit("a stream that nobody made")
catch_up(base + "-catch-up")
text(base + "-text")
follow(base + "-long-poll", "long-poll")
follow(base + "-auto", "auto")
follow(base + "-sse", "sse")
refused(base + "-refused")
