"""A checkout that outlasts its process. No gateway, no MCP: sessions, and a function that they talk to.

    python examples/embedding.py [--store URL]

It orders three things, and takes its time. Kill it in the middle, as hard as you like (kill -9), and run it again:
it goes on with the same order where it was, and nobody pays twice. What happened is in the order's own events.

How it is done: each step is noted in the session's values *before* it is tried and *after* it has worked. A step that
was tried but is not known to have worked is looked up at the shop, which keeps its own book: it is not just repeated.
"""

from __future__ import annotations

import argparse
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio

import outlast

BASKET = {"tea": 4.50, "teapot": 32.00, "biscuits": 3.20}
STEP_SECONDS = 0.4  # so that there is time to kill it


class Shop:
    """The other side: reserves and charges, and writes what it did into a book of its own."""

    def __init__(self, book: Path) -> None:
        self._book = book

    async def answer(self, method: str, params: Any) -> object:
        """Answer one request of a session."""
        if method == "shop/lookup":
            return any(entry["reference"] == params["reference"] for entry in self.entries())
        await trio.sleep(STEP_SECONDS / 2)
        if method not in ("shop/reserve", "shop/charge"):
            raise outlast.RequestFailed(-32601, f"this shop has no {method}")
        with self._book.open("a") as book:
            book.write(json.dumps({"method": method, **params}) + "\n")
        await trio.sleep(STEP_SECONDS / 2)
        return {"done": True}

    def entries(self) -> list[dict[str, Any]]:
        """Read the book."""
        return [json.loads(line) for line in self._book.read_text().splitlines()] if self._book.exists() else []


def steps(order: str) -> list[tuple[str, dict[str, Any]]]:
    """Give what an order comes to; each step has a reference that the shop knows it by."""
    reserving = [("shop/reserve", {"item": item, "reference": f"{order}/{item}"}) for item in BASKET]
    return [*reserving, ("shop/charge", {"amount": sum(BASKET.values()), "reference": f"{order}/payment"})]


async def check_out(session: outlast.SessionHandle) -> None:
    """Take an order through its steps, from wherever it was left."""
    for number, (method, params) in enumerate(steps(session.id)):
        values = await session.values()
        if values.get("done", 0) > number:
            continue
        tried_before = values.get("trying") == number
        if not (tried_before and await session.request("shop/lookup", params)):
            async with session.update() as values:
                values["trying"] = number
            await session.request(method, params)
        await session.emit("order/step", {"step": method, **params})
        async with session.update() as values:
            values["done"] = number + 1
        print(f"{method:13} {params['reference'].partition('/')[2]}", flush=True)


async def find_order(runtime: outlast.Runtime, note: trio.Path) -> outlast.SessionHandle:
    """Go on with the order that was left open, or begin one; the note keeps its number, as a cookie would."""
    if await note.exists():
        print("going on with the order that was left open", flush=True)
        return runtime.session(await note.read_text())
    session = await runtime.create(server_id="shop", metadata={"customer": "you"})
    await note.write_text(session.id)
    print("a new order", flush=True)
    return session


async def show_history(session: outlast.SessionHandle) -> None:
    """Print what happened to the order. A step that was noted just before a kill may be noted twice: it counts once."""
    expected = len(steps(session.id))
    seen: set[str] = set()
    async with aclosing(session.events()) as events:
        while len(seen) < expected:
            event = await anext(events)
            seen.add(json.loads(event.message.raw)["params"]["reference"])
    print(f"history: {len(seen)} steps", flush=True)


async def main(store: str, folder: Path) -> None:
    """Run one checkout to its end."""
    shop, note = Shop(folder / "shop-book.jsonl"), trio.Path(folder / "order.txt")
    async with outlast.open_runtime(store, connect=outlast.connect_to(shop.answer)) as runtime:
        session = await find_order(runtime, note)
        await check_out(session)
        await show_history(session)
        await session.close()
        await note.unlink()
    charged = [entry for entry in shop.entries() if entry["method"] == "shop/charge"]
    print(f"paid {charged[-1]['amount']:.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", default="sqlite:./data/checkout.db", help="where orders are kept (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="for the shop's own book (%(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    trio.run(main, arguments.store, arguments.folder)
